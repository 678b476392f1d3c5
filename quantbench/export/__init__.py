"""Quantized models as folders that other libraries load: layouts of the weights, and the folder around them."""

from quantbench.export.awq import AutoAWQ
from quantbench.export.compressed_tensors import CompressedTensors
from quantbench.export.folder import check_destination, check_model, export_folder
from quantbench.export.gptq import GPTQLayout
from quantbench.export.layout import Layout

LAYOUTS: dict[str, Layout] = {
    "compressed_tensors": CompressedTensors(),
    "gptq": GPTQLayout(),
    "awq": AutoAWQ(),
}
"""By the name that ``save_layout`` takes."""

__all__ = ["LAYOUTS", "Layout", "check_destination", "check_model", "export_folder"]
