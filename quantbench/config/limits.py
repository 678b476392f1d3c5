"""What a configuration may not do: name code to run, or read the environment, which holds secrets.

Components are chosen by name among those that the package has; everything else is data. Hydra instantiates classes that
its own settings name (``_target_``, logging handlers, callbacks), so those settings are left to the package.
"""

import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from quantbench.errors import InputError

_CHOICES = ("hydra/launcher", "hydra/sweeper")
# Settings of launchers and sweepers, and where Hydra puts its own files.
_SETTINGS = re.compile(r"hydra\.(launcher|sweeper|sweep|run|verbose|mode|output_subdir|job\.(name|num|id))(\.|$)")
_NAMES_CODE = re.compile(r"\b_(target|partial|recursive|convert|args)_\b|\bpython/")
_RESOLVER = re.compile(r"\$\{\s*([^${}:]+):")
_REFERENCE = re.compile(r"\$\{[^${}:]*\}")
_OWN_RESOLVERS = ("sweep",)  # what the package's own configuration reads: the name of the sweep
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_limits(overrides: Sequence[Override]) -> None:
    """Refuse overrides that name code or read the environment.

    Raises:
        InputError: names the override and what is allowed.
    """
    for override in overrides:
        line, key = override.input_line or "", override.key_or_group
        if _NAMES_CODE.search(line):
            raise InputError(f"{line}: overrides cannot name code; choose a component by its name (list shows them)")
        _refuse_resolvers(line, key)
        if key == "hydra" or key.startswith(("hydra.", "hydra/")):
            _check_hydra(line, key)


def _check_hydra(line: str, key: str) -> None:
    if key.startswith("hydra/"):
        value = line.partition("=")[2]
        if not key.startswith(_CHOICES) or not _NAME.fullmatch(value):
            raise InputError(f"{line}: of Hydra's groups only {' and '.join(_CHOICES)} can be chosen, by name")
    elif not _SETTINGS.match(key):
        allowed = "hydra.launcher.*, hydra.sweeper.*, hydra.sweep.*, hydra.run.dir, hydra.verbose and hydra.job.name"
        raise InputError(f"{line}: of Hydra's settings only {allowed} can be set")


def check_interpolations(composed: DictConfig) -> None:
    """Refuse a configuration in which a resolver would read what is not in it, such as ``${oc.env:NAME}``.

    Raises:
        InputError: names the key.
    """
    pending: list[tuple[str, Any]] = [("", OmegaConf.to_container(composed, resolve=False))]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending += [(f"{key}.{name}".lstrip("."), item) for name, item in value.items()]
        elif isinstance(value, list):
            pending += [(key, item) for item in value]
        elif isinstance(value, str):
            _refuse_resolvers(value, key)


def _refuse_resolvers(text: str, key: str) -> None:
    before = None
    while text != before:
        for resolver in map(str.strip, _RESOLVER.findall(text)):
            if resolver in _OWN_RESOLVERS:
                continue
            raise InputError(
                f"{key}: ${{{resolver}:...}} is not allowed, for what it reads would be recorded; let the shell "
                "put a value in, or refer to another key with ${key}"
            )
        # a resolver's name may itself be put together from keys
        before, text = text, _REFERENCE.sub("KEY", text)
