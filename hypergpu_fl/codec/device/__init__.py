"""Encoding where the update lies, on a GPU or wherever torch computes, with the same bytes as on the CPU."""

from hypergpu_fl.codec.device.tensors import Kernels, add_to_tensor, encode_tensor, kernels_for

__all__ = ["Kernels", "add_to_tensor", "encode_tensor", "kernels_for"]
