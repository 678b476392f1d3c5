"""Configuration: schema, composition and one-line errors. Hydra lives here and in ``__main__`` alone."""

from quantbench.config.compose import check_command_line, compose_jobs, to_run_config
from quantbench.config.job import job_label, known_presets
from quantbench.config.presets import preset_choices
from quantbench.config.schema import GROUPS, RunConfig, conf_dir, register

__all__ = [
    "GROUPS",
    "RunConfig",
    "check_command_line",
    "compose_jobs",
    "conf_dir",
    "job_label",
    "known_presets",
    "preset_choices",
    "register",
    "to_run_config",
]
