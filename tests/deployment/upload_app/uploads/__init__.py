"""A Flower app whose node 0 replies with a large update, and every other with a small one."""
