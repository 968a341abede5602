"""The bytes of an update: the blob, the bodies of its levels, and which values are statistics."""
