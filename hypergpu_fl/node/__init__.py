"""The node: its ClientApp, and the processes that stay loaded between messages."""
