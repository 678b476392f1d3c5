"""The run's configuration: typed schema and registration with Hydra.

Hydra composes ``conf/``; every group is backed by a dataclass that *is* the component, so a wrong key, type or range
fails here, before a model is loaded.
"""

import importlib
import inspect
import pkgutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin
from hydra.types import RunMode
from omegaconf import MISSING, OmegaConf

from quantbench.axes import AXES
from quantbench.cluster.options import Joblib, Ray, Slurm
from quantbench.data.calibration import Calibration
from quantbench.errors import InputError
from quantbench.evaluation.config import Evaluation
from quantbench.export import LAYOUTS
from quantbench.formats import Format
from quantbench.methods.activation import Activation
from quantbench.methods.allocation import Allocation
from quantbench.methods.grid import Grid
from quantbench.methods.kv_cache import KVCache
from quantbench.methods.range import Range
from quantbench.methods.rounding import Rounding
from quantbench.methods.training import Training
from quantbench.methods.transform import SiteScaling, Transform
from quantbench.methods.variant import STATISTICS, Variant
from quantbench.models.load import DTYPES, EmbeddedModel, HubModel, LocalModel, Model, WorldModel
from quantbench.search import Search
from quantbench.store.wandb_log import Logger

GROUPS = ("method", *AXES, "model", "calibration", "evaluation", "logger", "experiment")
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".json")  # what save cannot mean


@dataclass
class RunConfig:
    """Everything one run needs to know.

    bits, group_size, symmetric: of the weights' format; stats: what calibration sees (``propagate``: the outputs of
    already quantized blocks, ``fp``: full-precision activations); device: ``auto`` is CUDA when there is one; dtype: of
    the model while calibrating and scoring; force: recompute a run that is already stored; save: where to write the
    run's model: a .gguf file for llama.cpp, or a folder; save_layout: how a folder stores the quantized linears.
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
    save: str | None = None
    save_layout: str = "compressed_tensors"
    format: Format = MISSING
    range: Range = MISSING
    transform: Transform = MISSING
    rounding: Rounding = MISSING
    allocation: Allocation = MISSING
    activation: Activation = MISSING
    kv_cache: KVCache = MISSING
    training: Training = MISSING
    model: Model = MISSING
    calibration: Calibration = MISSING
    evaluation: Evaluation = MISSING
    logger: Logger = MISSING

    def __post_init__(self) -> None:
        if self.stats not in STATISTICS:
            raise ValueError(f"stats={self.stats}: allowed are {', '.join(STATISTICS)}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype}: allowed are {', '.join(DTYPES)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}: allowed are 0 to 2^32 - 1")
        if self.save is not None and self.evaluation.execution != "fake":
            raise ValueError(f"save={self.save}: allowed only with evaluation.execution=fake")
        if self.save is not None and (self.activation.quantizes or self.kv_cache.quantizes):
            raise ValueError(f"save={self.save}: allowed only with activation=none and kv_cache=none")
        if self.save is not None and any(c.runs_online for c in self.variant().components):
            raise ValueError(f"save={self.save}: allowed only where all is in the weights, nothing online")
        if self.save is not None and isinstance(self.transform, SiteScaling) and self.transform.adds_biases:
            raise ValueError(f"save={self.save}: allowed only with transform.shift=false, which adds no biases")
        if self.save_layout not in LAYOUTS:
            raise ValueError(f"save_layout={self.save_layout}: allowed are {', '.join(LAYOUTS)}")
        if self.save is not None and self.save.endswith(_FILES):
            raise ValueError(f"save={self.save}: allowed is a folder, a file name that ends in .gguf, or null")
        self.variant().check()
        if self.saves_folder and self.rounding.quantizes:
            self._check_layout()

    @property
    def quantizes(self) -> bool:
        """False for full precision: nothing is quantized, neither weights nor what is computed from them."""
        return self.variant().quantizes

    @property
    def saves_folder(self) -> bool:
        """Whether the run's model is written as a folder, in ``save_layout``."""
        return self.save is not None and not self.save.endswith(".gguf")

    def _check_layout(self) -> None:
        """Refuse what the layout cannot hold."""
        grid = Grid(self.format, self.range)
        LAYOUTS[self.save_layout].check_variant(
            self.allocation.formats(self.format),
            keeps_weights=self.allocation.keeps_weights,
            reorders_groups=self.rounding.index_bytes(grid, 2 * (self.format.group_size or 1)) > 0,
        )

    def variant(self) -> Variant:
        """The run's point in the product of axes."""
        return Variant(
            format=self.format,
            range=self.range,
            transform=self.transform,
            rounding=self.rounding,
            allocation=self.allocation,
            activation=self.activation,
            kv_cache=self.kv_cache,
            training=self.training,
            statistics=self.stats,
        )


# The packages whose concrete component classes are the choices on an axis, and the class they all derive from.
_AXIS_PACKAGES: dict[str, tuple[str, type]] = {
    "format": ("quantbench.formats", Format),
    "range": ("quantbench.methods.range", Range),
    "transform": ("quantbench.methods.transform", Transform),
    "rounding": ("quantbench.methods.rounding", Rounding),
    "allocation": ("quantbench.methods.allocation", Allocation),
    "activation": ("quantbench.methods.activation", Activation),
    "kv_cache": ("quantbench.methods.kv_cache", KVCache),
    "training": ("quantbench.methods.training", Training),
}
_OTHER_NODES: dict[str, dict[str, type]] = {
    "model": {
        "embedded_base": EmbeddedModel,
        "world_base": WorldModel,
        "local_base": LocalModel,
        "hub_base": HubModel,
    },
    "calibration": {"calibration_base": Calibration},
    "evaluation": {"evaluation_base": Evaluation},
    "logger": {"logger_base": Logger},
    "hydra/launcher": {"slurm_base": Slurm, "ray_base": Ray, "joblib_base": Joblib},
    "hydra/sweeper": {"optuna_base": Search},
}
_PLUGINS = Path(__file__).resolve().parents[1] / "plugins"


def components(axis: str) -> dict[str, type]:
    """Every concrete choice on an axis: lower-case class name -> class. A new file in the axis's package is found."""
    package_name, base = _AXIS_PACKAGES[axis]
    package = importlib.import_module(package_name)
    found: dict[str, type] = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        for value in vars(importlib.import_module(info.name)).values():
            concrete = isinstance(value, type) and issubclass(value, base) and not inspect.isabstract(value)
            if concrete and value is not base:
                found[value.__name__.lower()] = value
    return found


def _node(component: type, group: str) -> Any:
    node = OmegaConf.structured(component)
    if group == "format":  # the top-level knobs are the format's fields, so that they can be swept by short names
        for key in ("bits", "group_size", "symmetric"):
            if key in node:
                OmegaConf.update(node, key, f"${{{key}}}")
    return node


def _sweep() -> str | None:
    """``${sweep:}``: the name that the runs of a sweep share, the time when it was started; null outside a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return f"sweep {Path(HydraConfig.get().sweep.dir).name}"


def register() -> None:
    """Register the schema of every group with Hydra's ConfigStore, what conf/ uses, and our plugins (idempotent)."""
    OmegaConf.register_new_resolver("sweep", _sweep, replace=True)
    _register_plugins()
    store = ConfigStore.instance()
    store.store(name="base_config", node=RunConfig)
    nodes = {axis: {f"{name}_base": cls for name, cls in components(axis).items()} for axis in _AXIS_PACKAGES}
    for group, choices in (nodes | _OTHER_NODES).items():
        for name, component in choices.items():
            store.store(group=group, name=name, node=_node(component, group))


def _register_plugins() -> None:
    """Make our launchers known; Hydra takes plugins from the namespace package ``hydra_plugins`` alone."""
    if str(_PLUGINS) not in sys.path:
        sys.path.append(str(_PLUGINS))
    for file in sorted((_PLUGINS / "hydra_plugins").glob("*.py")):
        module = importlib.import_module(f"hydra_plugins.{file.stem}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Plugin) and value.__module__ == module.__name__:
                Plugins.instance().register(value)


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
