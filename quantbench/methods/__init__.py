"""Quantization methods as choices on independent axes: range, transform, rounding, allocation, activation."""
