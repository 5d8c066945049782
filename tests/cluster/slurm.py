"""A real Slurm on pretend hosts: munge, slurmctld and a slurmd a node, from Debian's packages, without systemd."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.hosts import Hosts, wait_until

ROOT = Path(__file__).resolve().parents[2]
CPUS, GPUS = 16, 4
"""Declared for each node. Slurm hands them out and counts them; the machine has what it has."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "ip", "unshare", "nsenter", "setpriv")
_UP_SECONDS = 60.0
_QUESTIONS = 5
"""Times that Slurm is asked; each waits for its MessageTimeout."""

_CONFIGURATION = """\
ClusterName=pretend
SlurmctldHost=head({head})
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for its credential to expire, 120 s unless told.
AuthInfo=socket={directory}/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd-%n.log
MailProg=/bin/true
# Neither cgroups nor binding: the processors are only declared.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
EnforcePartLimits=ALL
KillWait=20
MinJobAge=3600
MessageTimeout=30
SlurmdTimeout=20
SchedulerParameters=bf_interval=2,batch_sched_delay=0
GresTypes=gpu
NodeName={nodes} Sockets=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=64000 Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Keep a cluster of ``size`` nodes up until ``close``.

    Args:
        directory: readable for everybody, because jobs of any user need it.
        size: number of nodes; they are called ``n1`` and so on.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.nodes = [f"n{number}" for number in range(1, size + 1)]
        for name in ("munge", "log", "etc/slurm", "devices", *(f"spool-{node}" for node in self.nodes)):
            (directory / name).mkdir(parents=True)
        (directory / "state").mkdir(mode=0o700)
        key = directory / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        for number in range(GPUS):  # slurmd insists on device nodes: these are as good as /dev/null
            os.mknod(directory / "devices" / f"gpu{number}", 0o020666, os.makedev(1, 3))
        self.hosts: Hosts | None = None
        try:
            self._configure(f"n[1-{size}]")
            self.hosts = Hosts(
                directory / "hosts", self.nodes, shared=[directory, ROOT, Path(sys.prefix), Path(sys.base_prefix)]
            )
            self._start_daemons()
        except BaseException:
            self.close()
            raise

    def _configure(self, nodes: str) -> None:
        directory = self.directory / "hosts" / "etc" / "slurm"
        directory.mkdir(parents=True)
        values = {"directory": self.directory, "nodes": nodes, "cpus": CPUS, "gpus": GPUS}
        (directory / "slurm.conf").write_text(_CONFIGURATION.format(head="10.91.0.254", **values))
        devices = f"{self.directory}/devices/gpu[0-{GPUS - 1}]"
        (directory / "gres.conf").write_text(f"NodeName={nodes} Name=gpu File={devices}\n")

    def _start_daemons(self) -> None:
        munge = self.directory / "munge"
        paths = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon("head", "munged", *(f"--{name}={munge}/{file}" for name, file in paths.items()))
        self._daemon("head", "slurmctld", "-c")
        for node in self.nodes:
            self.start_node(node)
        wait_until("all nodes idle", lambda: self.idle() == len(self.nodes), _UP_SECONDS)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._daemon(node, "slurmd", "-N", node)

    def nodes_of(self, number: int) -> list[str]:
        """Return the nodes of a job."""
        return self.on_head("scontrol", "show", "hostnames", self.job(number)["NodeList"]).split()

    def crash(self, node: str) -> None:
        """Let a node die without a word."""
        assert self.hosts is not None
        self.hosts.crash(node)

    def restart_host(self, node: str) -> None:
        """Boot a host that crashed, and wait until its node takes jobs again."""
        assert self.hosts is not None
        self.hosts.start(node)
        self.start_node(node)
        wait_until(
            f"{node} is idle", lambda: "idle" in self.on_head("sinfo", "-h", "-n", node, "-o", "%t"), _UP_SECONDS
        )

    def _daemon(self, host: str, *command: str) -> None:
        assert self.hosts is not None
        # A file and not a pipe: a daemon keeps what it inherits open for ever.
        path = self.directory / "log" / f"{host}-{command[0]}.out"
        with path.open("ab") as log:
            done = subprocess.run(
                self.hosts.on(host, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=30, check=False
            )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} on {host}: status {done.returncode}: {path.read_text()[-2000:]}")

    def idle(self) -> int:
        """Return how many nodes are idle."""
        return len(re.findall(r"^idle$", self.on_head("sinfo", "-h", "-N", "-o", "%t", check=False), re.MULTILINE))

    def on_head(
        self,
        *command: str,
        seconds: float = 60,
        check: bool = True,
        user: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run ``command`` on the login node, as root or as ``user``, and return what it prints."""
        assert self.hosts is not None
        as_user = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        done = subprocess.run(
            self.hosts.on("head", *as_user, *command),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
            env=environment,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stdout}")
        return done.stdout

    def job(self, number: int) -> Mapping[str, str]:
        """Return what Slurm says of a job; ask again when its daemon, on a few busy cores, is late with the answer."""
        for _ in range(_QUESTIONS):
            text = self.on_head("scontrol", "show", "job", "-o", str(number), check=False)
            if "timed out" not in text:
                break
        if "JobState=" not in text:
            raise RuntimeError(f"scontrol show job {number}: {text}")
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait_for(self, number: int, *states: str, seconds: float) -> Mapping[str, str]:
        """Wait until a job is in one of ``states``; a failed one ends the waiting at once."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
        wait_until(
            f"job {number} is {' or '.join(states)}",
            lambda: self.job(number)["JobState"] in {*states, *ends},
            seconds,
            0.5,
        )
        job = self.job(number)
        if job["JobState"] not in states:
            raise AssertionError(f"job {number} is {job['JobState']}: {self.log_of(job)}")
        return job

    def log_of(self, job: Mapping[str, str]) -> str:
        """Return the end of what a job printed."""
        path = Path(job.get("StdOut", "/nonexistent"))
        return path.read_text(errors="replace")[-6000:] if path.exists() else f"no output at {path}"

    def close(self) -> None:
        """End the cluster and everything that runs on it."""
        if self.hosts is not None:
            self.hosts.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def missing() -> list[str]:
    """Return what this machine lacks for a cluster."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    # Slurm's plugin opens libpmix.so at run time; only the -dev package has that name.
    if not any(Path("/usr/lib").glob("*/libpmix.so")):
        lacking.append("libpmix.so")
    return lacking + (["root"] if os.geteuid() else [])
