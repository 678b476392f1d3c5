"""Transform: a function-preserving rewrite of the full-precision model before rounding."""

from quantbench.methods.transform.awq import AWQ
from quantbench.methods.transform.base import ModelTransform, NoTransform, SiteProblem, SiteScaling, Transform
from quantbench.methods.transform.block_hadamard import BlockHadamard
from quantbench.methods.transform.os_plus import OSPlus
from quantbench.methods.transform.rotation import Hadamard, RandomRotation, Rotation
from quantbench.methods.transform.smooth import SmoothQuant
from quantbench.methods.transform.spinquant import SpinQuant

__all__ = [
    "AWQ",
    "BlockHadamard",
    "Hadamard",
    "ModelTransform",
    "NoTransform",
    "OSPlus",
    "RandomRotation",
    "Rotation",
    "SiteProblem",
    "SiteScaling",
    "SmoothQuant",
    "SpinQuant",
    "Transform",
]
