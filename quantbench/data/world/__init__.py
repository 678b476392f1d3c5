"""The invented world behind the embedded model: held-out text, its entropy floor, and multiple-choice tasks."""

from quantbench.data.world.corpora import SPLITS, corpus, floor
from quantbench.data.world.tasks import TASKS, write_tasks

__all__ = ["SPLITS", "TASKS", "corpus", "floor", "write_tasks"]
