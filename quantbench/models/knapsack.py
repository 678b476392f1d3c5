"""The multiple-choice knapsack: one choice for each item, least cost, within a capacity."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import eye_array, kron

_SPREAD = 1e6  # the solver's absolute gap is 1e-6, so that the cost found is the least to 1e-12 of its spread


def choose(cost: NDArray[np.float64], size: NDArray[np.int64], capacity: int) -> list[int]:
    """For each item the index of its choice: cost and size [items, choices], sizes sum to at most ``capacity``.

    Solved exactly, as a 0-1 program: min sum c x with sum_j x_ij = 1 and sum s x <= capacity.

    Raises:
        ValueError: no choice fits.
    """
    items, choices = cost.shape
    if size.min(1).sum() > capacity:
        raise ValueError(f"capacity {capacity}: the smallest choices take {size.min(1).sum()}")
    unit = math.gcd(*size.ravel().tolist())  # small numbers, so that the solver's tolerance is less than a byte
    above = cost - cost.min(1, keepdims=True)
    spread = above.max(1).sum()
    one_each = kron(eye_array(items), np.ones((1, choices)), format="csr")
    solution = milp(
        (above / spread * _SPREAD if spread > 0 else above).ravel(),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(size.ravel() / unit, -np.inf, capacity // unit),
        ],
        bounds=Bounds(0, 1),
        integrality=np.ones(items * choices),
        options={"mip_rel_gap": 0},
    )
    assert solution.success, solution.message
    chosen = solution.x.reshape(items, choices).argmax(1)
    assert size[np.arange(items), chosen].sum() <= capacity
    return [int(index) for index in chosen]
