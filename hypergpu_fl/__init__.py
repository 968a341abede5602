"""HyperGPU: train one model on GPUs spread over the internet."""

__version__ = "0.1.0"
