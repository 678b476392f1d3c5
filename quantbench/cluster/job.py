"""One job of a sweep: some of its runs, done in another process, maybe on another machine."""

import os
import pickle
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMED_OUT = 124  # the exit code of coreutils' timeout


@dataclass(frozen=True)
class Job:
    """A picklable piece of work. work: pickled function of no arguments; folder: where it is to run."""

    work: bytes
    folder: str

    @classmethod
    def of(cls, work: Callable[[], Any]) -> "Job":
        """To be run in this process's working directory, wherever that folder is shared."""
        import cloudpickle

        return cls(cloudpickle.dumps(work), os.getcwd())

    def __call__(self) -> Any:
        """Do the work, in a process that has imported nothing yet."""
        from quantbench.config import register

        register()  # Hydra's plugins must be on the path before the work, which refers to them, is read
        os.chdir(self.folder)
        return pickle.loads(self.work)()

    def checkpoint(self) -> Any:
        """What submitit is to queue again when the job's time is over: the same, since stored runs are skipped."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


@dataclass(frozen=True)
class Lost:
    """A job that left no result, and why; retry: whether another try may end better."""

    reason: str
    retry: bool = True


def within(minutes: float | None, work: Callable[[], Any]) -> Any:
    """The work's result; a process that needs longer ends at once, with TIMED_OUT."""
    if minutes is None:
        return work()
    timer = threading.Timer(minutes * 60, os._exit, (TIMED_OUT,))
    timer.daemon = True
    timer.start()
    try:
        return work()
    finally:
        timer.cancel()


def main(arguments: Sequence[str]) -> int:
    """``python -m quantbench.cluster.job JOB RESULT``: do a pickled job and write its pickled result, whole or not."""
    import cloudpickle

    source, target = map(Path, arguments)
    result = pickle.loads(source.read_bytes())()
    partial = target.with_suffix(".partial")
    partial.write_bytes(cloudpickle.dumps(result))
    partial.replace(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
