"""A real Slurm of one node on this machine, with its own configuration, ports, keys and spool folders."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun")
SECONDS = 30

CONFIGURATION = """
ClusterName=quantbench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no Slurm can be started here, or nothing."""
    absent = [program for program in PROGRAMS if not _which(program)]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd wants to be root"


class SlurmCluster:
    """munged, slurmctld and slurmd in the foreground, as children of this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().split(".")[0]
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        ports = {name: _free_port() for name in ("controller", "node")}
        self.configuration = folder / "slurm.conf"
        self.configuration.write_text(CONFIGURATION.format(host=self.host, folder=folder, **ports))
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)

    def start(self) -> None:
        files = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munge.log"}
        files |= {"pid-file": "munge.pid", "seed-file": "munge.seed"}
        # --force: the folder above may be writable by others, as /tmp is
        self._start("munged", "--foreground", "--force", *(f"--{k}={self.folder / v}" for k, v in files.items()))
        until(lambda: (self.folder / "munge.socket").exists(), "munged has no socket")
        self._start("slurmctld", "-D", "-i")
        self.start_node()

    def start_node(self) -> None:
        log, started = self.folder / "slurmd.log", "slurmd started"
        before = log.read_text().count(started) if log.exists() else 0
        self._start("slurmd", "-D", "-N", self.host)
        until(lambda: log.exists() and log.read_text().count(started) > before, "slurmd does not start")
        until(lambda: self.command("sinfo", "-h", "-o", "%T").strip() in ("idle", "mixed", "allocated"), "no node")

    def restart_node(self) -> None:
        """Stop slurmd (its jobs live on) and start it again."""
        self._stop("slurmd")
        self.start_node()

    def command(self, *arguments: str) -> str:
        return subprocess.run(arguments, env=self.environment(), capture_output=True, text=True, timeout=60).stdout

    def environment(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.configuration)}

    def stop(self) -> None:
        self.command("scancel", "--user=root")
        end = time.monotonic() + SECONDS
        while self.command("squeue", "--noheader") and time.monotonic() < end:  # a step outlives a slurmd that is gone
            time.sleep(0.2)
        for name in ("slurmd", "slurmctld", "munged"):
            self._stop(name)

    def _start(self, program: str, *arguments: str) -> None:
        log = (self.folder / f"{program}.out").open("ab")
        path = _which(program)
        assert path
        self._daemons[program] = subprocess.Popen([path, *arguments], env=self.environment(), stdout=log, stderr=log)

    def _stop(self, program: str) -> None:
        if daemon := self._daemons.pop(program, None):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def until(true, message: str, seconds: float = SECONDS) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, message
        time.sleep(0.2)
