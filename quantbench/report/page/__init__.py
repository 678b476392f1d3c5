"""``python -m quantbench report``: one HTML file of a whole results folder, readable without a network."""

from quantbench.report.page.build import main

__all__ = ["main"]
