"""Rounding: which code each weight gets, given the grid."""

from quantbench.methods.rounding.autoround import AutoRound
from quantbench.methods.rounding.base import Rounded, Rounding
from quantbench.methods.rounding.efficientqat import EfficientQAT
from quantbench.methods.rounding.flatquant import FlatQuant
from quantbench.methods.rounding.gptaq import GPTAQ
from quantbench.methods.rounding.gptq import GPTQ
from quantbench.methods.rounding.hqq import HQQ
from quantbench.methods.rounding.keep import KeepFullPrecision
from quantbench.methods.rounding.kquants import KQuants
from quantbench.methods.rounding.ldlq import LDLQ
from quantbench.methods.rounding.omniquant import OmniQuant
from quantbench.methods.rounding.rtn import RTN
from quantbench.methods.rounding.tuner import BlockTuner

__all__ = [
    "GPTAQ",
    "GPTQ",
    "HQQ",
    "LDLQ",
    "RTN",
    "AutoRound",
    "BlockTuner",
    "EfficientQAT",
    "FlatQuant",
    "KQuants",
    "KeepFullPrecision",
    "OmniQuant",
    "Rounded",
    "Rounding",
]
