"""Training: whether weights or scales move once the grid is fixed."""

from quantbench.methods.training.base import Training
from quantbench.methods.training.none import NoTraining

__all__ = ["NoTraining", "Training"]
