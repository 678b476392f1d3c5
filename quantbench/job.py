"""A run that is to be done, and what it shares with others."""

import json
from dataclasses import asdict, dataclass

import torch

from quantbench.checks import check_training, pick_device
from quantbench.config.schema import RunConfig
from quantbench.determinants import determinants
from quantbench.evaluation.tasks import check_tasks
from quantbench.label import Label
from quantbench.methods.transform import ModelTransform
from quantbench.models.identity import ModelIdentity
from quantbench.paths import usable_cache_dir
from quantbench.saving import check_save
from quantbench.session import Session
from quantbench.store.identity import run_id
from quantbench.store.parquet import Store


@dataclass(frozen=True)
class Job:
    """One run to be done, with everything that is known of it before a model is loaded."""

    config: RunConfig
    label: Label
    model: ModelIdentity
    device: torch.device
    identifier: str
    store: Store

    @property
    def key(self) -> tuple[str, ...]:
        """Tells it from other runs of a sweep: the same result may be wanted in two places."""
        return self.identifier, self.config.results_dir, self.config.save or ""

    @property
    def is_done(self) -> bool:
        """Whether it is stored and need not be computed again."""
        return self.store.exists(self.identifier) and not self.config.force and self.config.save is None

    @property
    def quantizes(self) -> bool:
        """False for full precision."""
        return self.config.quantizes

    @property
    def calibrates(self) -> bool:
        """Whether it needs calibration tokens."""
        return self.config.variant().needs_calibration

    @property
    def rewrite(self) -> ModelTransform | None:
        """What rewrites the whole model before it is quantized, if anything does."""
        transform = self.config.transform
        return transform if self.quantizes and isinstance(transform, ModelTransform) else None

    @property
    def title(self) -> str:
        """What it is called in a line of progress."""
        config, names = self.config, [self.label.method]
        if self.config.rounding.quantizes:
            names += [f"bits={config.format.bits}", f"group_size={config.format.group_size}"]
        return " ".join(filter(None, (*names, self.label.variant)))

    @property
    def reference_key(self) -> tuple[str, torch.device]:
        """Everything that a model in full precision and its scores depend on."""
        settings = [asdict(self.config.evaluation), asdict(self.model), self.config.dtype]
        return json.dumps(settings, sort_keys=True), self.device

    @property
    def calibration_key(self) -> str | None:
        """Everything that the calibration tokens depend on beside the model; None for a run that needs none."""
        settings = [asdict(self.config.calibration), self.config.seed]
        return json.dumps(settings, sort_keys=True) if self.calibrates else None

    @property
    def basis_key(self) -> str | None:
        """How the whole model is rewritten; None where it is quantized as it is."""
        if self.rewrite is None:
            return None
        fitted_to = (self.config.activation, self.config.kv_cache) if self.rewrite.learns else ()
        return repr((self.rewrite, *fitted_to))


def plan_job(config: RunConfig, label: Label, session: Session) -> Job:
    """Find out everything that can be wrong, and the run's id, without loading a model.

    Raises:
        InputError: something the user gave is wrong.
    """
    device = pick_device(config.device)
    store = session.store(config.results_dir)
    store.check_writable()
    check_tasks(config.evaluation, cache_dir=usable_cache_dir())
    check_save(config)
    check_training(config)
    model = session.identity(config.model)
    return Job(config, label, model, device, run_id(determinants(config, label, model, device.type)), store)
