"""quantbench: compare LLM quantization methods under one protocol, with paired statistics."""

__version__ = "0.2.0"
