"""Composing configurations, and saying in one line what is wrong with one."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from quantbench.config.job import job_label
from quantbench.config.limits import check_interpolations, check_limits
from quantbench.config.presets import preset_choices
from quantbench.config.schema import RunConfig, conf_dir, register
from quantbench.errors import InputError
from quantbench.label import Label
from quantbench.verbs import VERBS

CONFIG_NAME = "config"


def check_command_line(overrides: Sequence[str], *, multirun: bool, search_path: str | None = None) -> list[RunConfig]:
    """Compose and type-check every job of a command line before the first one starts.

    overrides: ``key=value`` arguments; with ``multirun``, values may be sweeps (``bits=3,4``). search_path: a further
    folder of configurations (Hydra's ``--config-dir``).

    Raises:
        InputError: an unknown choice or key, a value of the wrong type or out of range; one line with what is allowed.
    """
    register()
    extra = Path(search_path).absolute() if search_path else None
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        parsed = _parse(overrides)
        check_limits(parsed)
        _check_hydra([o for o in parsed if _is_hydra(o)], extra)
        jobs = _jobs(parsed) if multirun else [list(overrides)]
        configs = [to_run_config(_composed_job(job, extra)) for job in jobs]
        _check_saves(configs)
        return configs


def compose_jobs(overrides: Sequence[str]) -> list[tuple[RunConfig, Label]]:
    """Every job of a sweep, checked, with what it is called.

    Raises:
        InputError: as :func:`check_command_line`.
    """
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        presets, found = preset_choices(), []
        parsed = _parse(overrides)
        check_limits(parsed)
        for job in _jobs(parsed):
            composed = _composed_job(job, None, whole=True)
            hydra = composed.hydra
            with open_dict(composed):
                del composed["hydra"]
            found.append((to_run_config(composed), job_label(hydra, presets)))
        return found


def to_run_config(composed: DictConfig) -> RunConfig:
    """Typed objects from a composed configuration.

    Raises:
        InputError: a missing value, or a field that its component rejects; one line.
    """
    try:
        check_interpolations(composed)
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise InputError(f"missing value: give {', '.join(f'{key}=...' for key in missing)}")
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        cause = error.__cause__
        raise InputError(_first_line(cause if isinstance(cause, ValueError) else error)) from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(_first_line(error)) from error
    assert isinstance(config, RunConfig)
    return config


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` when something known is close, otherwise nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _parse(overrides: Sequence[str]) -> list[Override]:
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise InputError(f"{text}: neither a verb ({', '.join(VERBS)}) nor key=value{did_you_mean(text, VERBS)}")
    try:
        # the loader expands globs (method=glob(q*))
        loader = GlobalHydra.instance().config_loader()
        return list(OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)))
    except OverrideParseException as error:
        raise InputError(f"cannot parse {_first_line(error)}") from error


def _jobs(parsed: list[Override]) -> list[list[str]]:
    """The override lists of a sweep; a sweep that only its sweeper can expand (an interval) is checked as it starts."""
    own = [o for o in parsed if not _is_hydra(o)]
    if any(o.is_sweep_override() and not o.is_discrete_sweep() for o in own):
        return []
    return [list(job) for batch in BasicSweeper.split_arguments(own, max_batch_size=None) for job in batch]


def _is_hydra(override: Override) -> bool:
    return override.key_or_group == "hydra" or override.key_or_group.startswith(("hydra.", "hydra/"))


def _check_hydra(overrides: list[Override], extra: Path | None) -> None:
    """The settings of launcher and sweeper; ``+hydra...`` adds one that is not there, so that is not known."""
    choices = [o for o in overrides if "/" in o.key_or_group]
    for override in choices:
        _check_choice(override, _options(override.key_or_group, extra))
    if not overrides:
        return
    known = _flat_keys(_compose([o.input_line or "" for o in choices] + _search(extra), whole=True))
    for override in overrides:
        if override not in choices and not override.is_add():
            _check_key(override, known)
    _compose([o.input_line or "" for o in overrides] + _search(extra), whole=True)


def _search(extra: Path | None) -> list[str]:
    return [f"hydra.searchpath=[file://{extra}]"] if extra else []


def _check_saves(configs: Sequence[RunConfig]) -> None:
    """Two runs of a sweep whose models would be written to one place."""
    paths = [str(Path(config.save).absolute()) for config in configs if config.save is not None]
    if twice := [path for path in dict.fromkeys(paths) if paths.count(path) > 1]:
        raise InputError(
            f"save={twice[0]}: {paths.count(twice[0])} runs of the sweep would be saved there; put what differs into "
            "the name, such as save=model-${bits}"
        )


def _composed_job(job: list[str], extra: Path | None, *, whole: bool = False) -> DictConfig:
    """The configuration of one job, all of whose keys are known; whole: with Hydra's own settings."""
    own = [o for o in _parse(job) if not _is_hydra(o)]
    search = _search(extra)
    groups = _groups(extra)
    for override in own:
        if override.is_sweep_override():
            raise InputError(f"{override.input_line}: several values are a sweep; add -m")
        if override.key_or_group in groups:
            _check_choice(override, _options(override.key_or_group, extra))
    selections = [o.input_line or "" for o in own if o.key_or_group in groups]
    settings = [o for o in own if o.key_or_group not in groups]

    def check_keys() -> None:
        known = _flat_keys(_compose(selections + search))
        for override in settings:
            _check_key(override, known)

    if any(o.is_add() or o.is_force_add() or o.is_delete() for o in settings):  # Hydra takes these of any name
        check_keys()
    try:
        return _compose([o.input_line or "" for o in own] + search, whole=whole)
    except InputError:
        check_keys()  # which says what is allowed
        raise


def _groups(extra: Path | None) -> set[str]:
    """Configuration groups, those of a further folder included."""
    found = set(GlobalHydra.instance().config_loader().list_groups("")) - {"hydra"}
    return found | ({folder.name for folder in extra.iterdir() if folder.is_dir()} if extra else set())


def _options(group: str, extra: Path | None) -> list[str]:
    """The selectable files of a group; the schemas behind them (``*_base``) are not for users."""
    names = GlobalHydra.instance().config_loader().get_group_options(group)
    more = [path.stem for path in sorted((extra / group).glob("*.yaml"))] if extra else []
    return [name for name in names if not name.endswith("_base")] + more


def _check_choice(override: Override, options: list[str]) -> None:
    value = override.value()
    if str(value) in options and not override.is_delete():
        return
    given = f"{override.key_or_group}={value}"
    raise InputError(f"{given}: unknown; allowed are {', '.join(options)}{did_you_mean(str(value), options)}")


def _check_key(override: Override, known: set[str]) -> None:
    key = override.key_or_group
    if key in known:
        return
    parent = key.rpartition(".")[0]
    siblings = sorted(k for k in known if k.rpartition(".")[0] == parent) or sorted(k for k in known if "." not in k)
    raise InputError(f"{key}: unknown key; allowed are {', '.join(siblings)}{did_you_mean(key, known)}")


def _compose(overrides: list[str], *, whole: bool = False) -> DictConfig:
    """whole: with Hydra's own settings."""
    try:
        return compose(config_name=CONFIG_NAME, overrides=overrides, return_hydra_config=whole)
    except (ConfigCompositionException, OmegaConfBaseException) as error:
        raise InputError(_explain(error)) from error
    except HydraException as error:
        raise InputError(_first_line(error)) from error


def _explain(error: Exception) -> str:
    """Hydra says which override failed, its cause says why; both on one line."""
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None)
    reason = _first_line(cause)
    return f"{key}: {reason}" if key and key not in reason else reason


def _flat_keys(config: DictConfig) -> set[str]:
    keys: set[str] = set()

    def visit(node: Any, prefix: str) -> None:
        for key in node:
            name = f"{prefix}{key}"
            keys.add(name)
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                visit(child, f"{name}.")

    visit(config, "")
    return keys


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
