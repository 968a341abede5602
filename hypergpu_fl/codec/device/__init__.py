"""The same bytes, made where the update lies: on a GPU, or wherever torch computes."""
