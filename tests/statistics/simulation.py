"""A simulation short enough for a test; `bench coverage` has the long one, stored in results/interval-coverage."""

TRIALS = 300


def about_95(coverage: float) -> bool:
    """Whether so few trials allow a true coverage between 93 and 97 %: two standard errors (0.0126) on either side."""
    return 0.93 - 0.025 <= coverage <= 0.97 + 0.025
