"""Where a training has got to, on disk: written whole, taken up again only by the very same training."""

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from quantbench.errors import QuantizationError

_LOG = logging.getLogger(__name__)


@dataclass
class Checkpoint:
    """One file. identity: of everything that the training depends on; seconds: between two writings."""

    path: Path
    identity: str
    seconds: float = 60.0
    _written: float = field(default_factory=time.monotonic, init=False)

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last, None where there is none, or only that of another training."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, weights_only=True, map_location="cpu")
        except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError) as error:
            _LOG.warning("%s cannot be read (%s); training starts over", self.path, type(error).__name__)
            return None
        if not isinstance(state, dict) or state.get("identity") != self.identity:
            _LOG.warning("%s is of another training; this one starts over", self.path)
            return None
        return state

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._written >= self.seconds

    def save(self, state: dict[str, Any]) -> None:
        """Write beside and rename, so that a kill never leaves half a file.

        Raises:
            QuantizationError: the disk refuses.
        """
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state | {"identity": self.identity}, temporary)
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise QuantizationError(f"{self.path}: the checkpoint cannot be written ({error})") from error
        self._written = time.monotonic()

    def remove(self) -> None:
        """Forget it: the training is done."""
        self.path.unlink(missing_ok=True)
