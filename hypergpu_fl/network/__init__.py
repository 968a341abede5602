"""Links between the server and its nodes: simulated, taken from published traces, or probed."""
