"""Training: whether weights or scales move once the grid is fixed."""

from quantbench.methods.training.base import FineTuning, Training
from quantbench.methods.training.lsq import LSQ
from quantbench.methods.training.none import NoTraining
from quantbench.methods.training.qat import QAT
from quantbench.methods.training.scales import Scales
from quantbench.methods.training.scratch import Scratch

__all__ = ["LSQ", "QAT", "FineTuning", "NoTraining", "Scales", "Scratch", "Training"]
