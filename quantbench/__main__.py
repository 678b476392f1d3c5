"""``python -m quantbench``: verbs, or ``key=value`` arguments for a run."""

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quantbench.errors import InputError, JobFailedError, exit_code, say
from quantbench.signals import EXIT_CODE, Terminated, terminable
from quantbench.verbs import VERBS

if TYPE_CHECKING:
    from collections.abc import Iterator

_ABOUT_HYDRA = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit code is 0, 1 for a failed run, 2 for wrong input, 143 for SIGTERM."""
    # Hydra's parser wants its flags before or after all key=value arguments, not among them.
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = sorted(given, key=lambda argument: argument not in ("-m", "--multirun"))
    try:
        with terminable():
            if arguments and arguments[0] in VERBS:
                return int(importlib.import_module(VERBS[arguments[0]]).main(arguments[1:]))
            return _run_jobs(arguments)
    except InputError as error:
        return _fail(error, 2)
    except JobFailedError as error:
        return int(error.args[0])
    except KeyboardInterrupt:
        return _fail("interrupted: nothing of the unfinished run is stored", 130)
    except Terminated:
        return _fail("terminated: nothing of the unfinished run is stored", EXIT_CODE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run_jobs(arguments: list[str]) -> int:
    """Check the whole command line, then hand it to Hydra, which launches one job or a sweep."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from quantbench.config import conf_dir, job_label, known_presets, register, to_run_config
    from quantbench.session import Session

    register()
    multirun = _check(arguments)
    failures: list[int] = []
    session = Session()

    def job(composed: DictConfig) -> Any:
        from quantbench.run import run

        recorded = None
        settings = HydraConfig.get()
        try:
            recorded = run(to_run_config(composed), job_label(settings, known_presets(settings)), session)
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            say(error)
            failures.append(code)
        if multirun and failures:
            # Raised, so that a sweep in other processes fails too; Hydra's launchers go on with the other jobs.
            raise JobFailedError(failures.pop())
        return recorded

    with _arguments(arguments):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    return max(failures, default=0)


def _check(arguments: list[str]) -> bool:
    """Refuse a wrong command line before its first job; returns whether it is a sweep."""
    from hydra._internal.utils import get_args_parser

    from quantbench.arguments import ArgumentParser
    from quantbench.config import check_command_line

    parser = get_args_parser()
    parser.__class__ = ArgumentParser
    parsed = parser.parse_args(arguments)
    for flag in ("config_path", "config_name", "experimental_rerun"):  # the last one unpickles a file
        if getattr(parsed, flag):
            raise InputError(f"--{flag.replace('_', '-')} is not allowed: add configurations with --config-dir FOLDER")
    if not any(argument.split("=")[0] in _ABOUT_HYDRA for argument in arguments):
        check_command_line(parsed.overrides, multirun=parsed.multirun, search_path=parsed.config_dir)
    return bool(parsed.multirun)


@contextmanager
def _arguments(arguments: list[str]) -> "Iterator[None]":
    """Hydra reads ``sys.argv``, and hides exceptions unless this variable asks it not to."""
    kept, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [kept[0], *arguments], full or "1"
    try:
        yield
    finally:
        sys.argv = kept
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]


def _fail(message: Any, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
