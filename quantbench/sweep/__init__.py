"""Sweeps on one machine: what runs share, how much memory that takes, and the order in which they are done."""

from quantbench.sweep.sweep import run_sweep

__all__ = ["run_sweep"]
