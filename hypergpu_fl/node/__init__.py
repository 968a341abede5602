"""The node: its ClientApp, and what stays loaded between messages."""
