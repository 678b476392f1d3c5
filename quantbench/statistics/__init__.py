"""What a difference between numbers is worth: intervals, paired tests, several comparisons, calibration seeds."""

from quantbench.statistics.answers import AnswerChanges, answer_changes
from quantbench.statistics.difference import PairedDifference, paired, paired_difference
from quantbench.statistics.intervals import CONFIDENCE, Interval, weighted_mean
from quantbench.statistics.multiple import holm
from quantbench.statistics.seeds import SeedStudy, across_seeds

__all__ = [
    "CONFIDENCE",
    "AnswerChanges",
    "Interval",
    "PairedDifference",
    "SeedStudy",
    "across_seeds",
    "answer_changes",
    "holm",
    "paired",
    "paired_difference",
    "weighted_mean",
]
