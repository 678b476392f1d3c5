"""The seeded tensors on which the two quantizers are compared; numpy's PCG64 gives the same ones everywhere."""

import numpy as np

CASES = ("normal", "heavy_tailed", "outlier_columns", "shifted")
ROWS, COLUMNS = 64, 1024


def problem(case: str) -> tuple[np.ndarray, np.ndarray]:
    """A weight [rows, columns] and an importance [columns], float32."""
    generator = np.random.default_rng(CASES.index(case))
    weight = generator.standard_normal((ROWS, COLUMNS))
    if case == "heavy_tailed":
        weight *= 1 + 0.3 * generator.standard_normal((ROWS, COLUMNS)) ** 2
    if case == "outlier_columns":
        weight[:, :: COLUMNS // 8] *= 8
    if case == "shifted":
        weight += generator.standard_normal((ROWS, COLUMNS // 32)).repeat(32, 1)
    importance = np.exp(1.5 * generator.standard_normal(COLUMNS))
    return (0.02 * weight).astype(np.float32), importance.astype(np.float32)


def relative_error(value: np.ndarray, weight: np.ndarray, importance: np.ndarray) -> float:
    """Squared error over squared weights, both weighed by the importance of the columns, in float64."""
    delta = value.astype(np.float64) - weight
    return float((delta**2 * importance).sum() / (weight.astype(np.float64) ** 2 * importance).sum())
