"""What a node has not sent yet, and the disk that it keeps it on."""
