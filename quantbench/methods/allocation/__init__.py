"""Allocation: where the bits go."""

from quantbench.methods.allocation.base import Allocation, Kept
from quantbench.methods.allocation.dense_sparse import DenseSparse
from quantbench.methods.allocation.keep import Keep
from quantbench.methods.allocation.mixed import Mixed
from quantbench.methods.allocation.outlier_columns import OutlierColumns
from quantbench.methods.allocation.spqr import SpQR
from quantbench.methods.allocation.uniform import Uniform

__all__ = ["Allocation", "DenseSparse", "Keep", "Kept", "Mixed", "OutlierColumns", "SpQR", "Uniform"]
