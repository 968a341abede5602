"""The model on its way to the nodes: versions at the server, views at the node."""
