"""What Hydra knows of a job beside its configuration: its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantbench.config.presets import preset_choices
from quantbench.label import Label


def known_presets(hydra: Any) -> dict[str, dict[str, str]]:
    """Method presets and their choices, those of the command line's own folder (``--config-dir``) included.

    hydra: the part ``hydra`` of a job's composed configuration.
    """
    sources = hydra.runtime.config_sources
    return preset_choices([Path(source.path) for source in sources if source.provider == "command-line"])


def job_label(hydra: Any, presets: Mapping[str, Mapping[str, str]]) -> Label:
    """What a job is called; arguments as of and from :func:`known_presets`."""
    choices = {key: value for key, value in hydra.runtime.choices.items() if isinstance(value, str)}
    return Label.of(choices["method"], choices, list(hydra.overrides.task), presets)
