"""Range: how scale and zero-point are fitted to a group of weights."""

from quantbench.methods.range.absmean import AbsMean
from quantbench.methods.range.awq_clip import AWQClip
from quantbench.methods.range.base import Range
from quantbench.methods.range.hqq import HQQ
from quantbench.methods.range.kl import KL
from quantbench.methods.range.kmeans import KMeans
from quantbench.methods.range.minmax import MinMax
from quantbench.methods.range.mse import MSE
from quantbench.methods.range.percentile import Percentile

__all__ = ["HQQ", "KL", "MSE", "AWQClip", "AbsMean", "KMeans", "MinMax", "Percentile", "Range"]
