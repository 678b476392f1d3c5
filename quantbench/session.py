"""What consecutive runs of one process share: a loaded model, its prepared texts, full precision's scores."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from quantbench.evaluation.evaluate import Prepared
from quantbench.models.basis import Turn
from quantbench.models.identity import ModelIdentity
from quantbench.models.load import LoadedModel, Model, identify
from quantbench.models.structure import Structure
from quantbench.store.parquet import Store


@dataclass(frozen=True)
class Reference:
    """A model in full precision, ready to be quantized and compared. Whoever changes the model must undo it.

    base: what ``evaluation.evaluate.baseline`` returned for it.
    """

    loaded: LoadedModel
    structure: Structure
    prepared: Prepared
    base: Any


class Session:
    """Keeps the reference of the last run, so that a sweep over methods loads and scores full precision once."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._reference: Reference | None = None
        self._identities: dict[str, ModelIdentity] = {}
        self._stores: dict[str, Store] = {}
        self._turns: dict[Hashable, Turn] = {}

    def store(self, folder: str) -> Store:
        """The store in a folder, with the claims of this process."""
        return self._stores.setdefault(folder, Store(folder))

    def identity(self, model: Model) -> ModelIdentity:
        """Name and content of a model; found out once, so that it is one for all runs of a sweep."""
        key = repr(model)
        if key not in self._identities:
            self._identities[key] = identify(model)
        return self._identities[key]

    def reference(self, key: Hashable, make: Callable[[], Reference]) -> Reference:
        """The reference for ``key`` (everything it depends on): the last one if it is the same, otherwise a new one."""
        if self._reference is None or key != self._key:
            self.forget()  # before the next one is loaded: two models need not fit
            self._reference, self._key = make(), key
        return self._reference

    def turn(self, key: Hashable, learn: Callable[[], Turn]) -> Turn:
        """The rotation learned for ``key`` (everything it depends on); learned once."""
        if key not in self._turns:
            self._turns[key] = learn()
        return self._turns[key]

    def forget(self) -> None:
        """Let go of the reference, because its model is no longer what was loaded."""
        self._key, self._reference = None, None
