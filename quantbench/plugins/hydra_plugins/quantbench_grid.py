"""Hydra's sweeper for every combination of values."""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class GridSweeper(BasicSweeper):
    """Hydra's own, which would compose every job once more to see that it can: the command line has been checked."""

    def validate_batch_is_composable(self, batch: list[list[str]]) -> None:
        """Nothing left to do."""
