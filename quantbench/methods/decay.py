"""How learning rates fall."""

import math

DECAYS = ("none", "linear", "cosine")


def decayed(decay: str, done: float, floor: float = 0.0) -> float:
    """What is left of a learning rate when the fraction ``done`` of the steps is taken: from 1 to ``floor``."""
    if decay == "none":
        return 1.0
    left = 1 - done if decay == "linear" else (1 + math.cos(math.pi * done)) / 2
    return floor + (1 - floor) * left
