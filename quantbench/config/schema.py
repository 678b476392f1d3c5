"""The run's configuration: typed schema and registration with Hydra.

Hydra composes ``conf/``; every group is backed by a dataclass that *is* the component, so a wrong key, type or range
fails here, before a model is loaded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from quantbench.axes import AXES
from quantbench.data.calibration import Calibration
from quantbench.errors import InputError
from quantbench.evaluation.config import Evaluation
from quantbench.formats import Format, IntFormat
from quantbench.methods.activation import Activation, NoActivation
from quantbench.methods.allocation import Allocation, Uniform
from quantbench.methods.range import AWQClip, MinMax, Range
from quantbench.methods.rounding import GPTQ, RTN, KeepFullPrecision, Rounding
from quantbench.methods.transform import AWQ, NoTransform, Transform
from quantbench.models.load import DTYPES, EmbeddedModel, HubModel, LocalModel, Model
from quantbench.models.walk import STATISTICS
from quantbench.store.wandb_log import Logger

GROUPS = ("method", *AXES, "model", "calibration", "evaluation", "logger")


@dataclass
class RunConfig:
    """Everything one run needs to know.

    bits, group_size, symmetric: of the weights' format; stats: what calibration sees (``propagate``: the outputs of
    already quantized blocks, ``fp``: full-precision activations); device: ``auto`` is CUDA when there is one; dtype: of
    the model while calibrating and scoring; force: recompute a run that is already stored.
    """

    bits: int = 4
    group_size: int | None = 128
    symmetric: bool = False
    stats: str = "propagate"
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    results_dir: str = "results"
    force: bool = False
    format: Format = MISSING
    range: Range = MISSING
    transform: Transform = MISSING
    rounding: Rounding = MISSING
    allocation: Allocation = MISSING
    activation: Activation = MISSING
    model: Model = MISSING
    calibration: Calibration = MISSING
    evaluation: Evaluation = MISSING
    logger: Logger = MISSING

    def __post_init__(self) -> None:
        if self.stats not in STATISTICS:
            raise ValueError(f"stats={self.stats}: allowed are {', '.join(STATISTICS)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype}: allowed are {', '.join(DTYPES)}")
        if self.stats == "fp" and self.rounding.sequential:
            raise ValueError("rounding.true_sequential=true: allowed only with stats=propagate")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: allowed are 0 to 2^32 - 1")


def _node(component: type, group: str) -> Any:
    node = OmegaConf.structured(component)
    if group == "format":  # the top-level knobs are the format's fields, so that they can be swept by short names
        for key in ("bits", "group_size", "symmetric"):
            if key in node:
                OmegaConf.update(node, key, f"${{{key}}}")
    return node


_NODES: dict[str, dict[str, type]] = {
    "format": {"format_int_base": IntFormat},
    "range": {"range_minmax_base": MinMax, "range_awq_clip_base": AWQClip},
    "transform": {"transform_none_base": NoTransform, "transform_awq_base": AWQ},
    "rounding": {"rounding_none_base": KeepFullPrecision, "rounding_rtn_base": RTN, "rounding_gptq_base": GPTQ},
    "allocation": {"allocation_uniform_base": Uniform},
    "activation": {"activation_none_base": NoActivation},
    "model": {"embedded_base": EmbeddedModel, "local_base": LocalModel, "hub_base": HubModel},
    "calibration": {"calibration_base": Calibration},
    "evaluation": {"evaluation_base": Evaluation},
    "logger": {"logger_base": Logger},
}


def register() -> None:
    """Register the schema of every group with Hydra's ConfigStore (idempotent)."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=RunConfig)
    for group, nodes in _NODES.items():
        for name, component in nodes.items():
            store.store(group=group, name=name, node=_node(component, group))


def conf_dir() -> Path:
    """The folder of configurations: inside the installed package, or beside it in a checkout.

    Raises:
        InputError: neither exists (a broken installation).
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise InputError(f"no configuration found beside {package}: reinstall quantbench")
