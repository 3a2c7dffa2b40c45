"""A real Slurm on this machine alone: one controller, several nodes, each a daemon of its own.

    with slurm_cluster(folder, nodes={"small": Node(2, 3000), "large": Node(2, 6000)}) as cluster:
        subprocess.run(["sbatch", …], env=cluster.environment())
        cluster.control("update", "nodename=small", "state=drain", "reason=test")

Everything listens on the loopback interface and on sockets in the folder, with a key of its own.
Without control groups, which a container may not make, memory is watched by Slurm's accounting: it
kills a job that takes more than it asked for. Slurm's accounting database is left out, so the jobs'
states come from `squeue`.
"""

import contextlib
import getpass
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import setup_slurm

_STARTS_WITHIN_SECONDS = 60


@dataclass(frozen=True)
class Node:
    """What a node says that it has: processors, memory in 2^20 bytes, GPUs."""

    cpus: int
    memory: int
    gpus: int = 0


@dataclass
class SlurmCluster:
    """The cluster; `bin` is the folder of Slurm's programs, `folder` that of its files."""

    bin: Path
    folder: Path

    def environment(self) -> dict[str, str]:
        """The variables with which this cluster's programs are found and used."""
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path}

    def run(self, program: str, *arguments: str) -> str:
        """Run one of Slurm's programs, and return what it prints."""
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def control(self, *arguments: str) -> str:
        """Run `scontrol`."""
        return self.run("scontrol", *arguments)

    def jobs(self) -> list[dict[str, str]]:
        """All jobs that the controller knows, also those that have ended, in their order."""
        rows = self.control("--oneliner", "show", "job").splitlines()
        fields = [dict(_pairs(row)) for row in rows if row.startswith("JobId=")]
        return sorted(fields, key=lambda job: int(job["JobId"]))

    def logs(self) -> str:
        """The ends of the daemons' logs, for the message of a failed test."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()[-2000:]}" for file in files)


def _pairs(row: str) -> Generator[tuple[str, str]]:
    for word in row.split():
        name, found, value = word.partition("=")
        if found:
            yield name, value


@contextlib.contextmanager
def slurm_cluster(folder: Path, nodes: Mapping[str, Node]) -> Generator[SlurmCluster]:
    """Start a cluster whose files lie in a folder; it ends with the block, and its jobs with it."""
    programs = setup_slurm.find_slurm()
    assert programs is not None, "no Slurm: python tools/setup.py --tests"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    _write_files(folder, nodes)
    cluster = SlurmCluster(_own_programs(programs, folder), folder)
    started: list[subprocess.Popen[bytes]] = []
    try:
        munge = ["munged", "--foreground", "--force", f"--key-file={folder / 'munge.key'}"]
        munge += [f"--socket={folder / 'munge.socket'}", f"--pid-file={folder / 'munged.pid'}"]
        munge += [f"--seed-file={folder / 'munge.seed'}", f"--log-file={folder / 'munged.log'}"]
        started.append(_start(cluster, *munge))
        _wait(lambda: (folder / "munge.socket").exists(), cluster)
        started.append(_start(cluster, "slurmctld", "-D", "-c"))
        stepd = str(cluster.bin / "slurmstepd")
        for name in nodes:
            started.append(_start(cluster, "slurmd", "-D", "-N", name, "-d", stepd))
        _wait(lambda: _idle(cluster) == len(nodes), cluster)
        yield cluster
    finally:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            cluster.run("scancel", "--user", getpass.getuser())
            _wait(lambda: not cluster.run("squeue", "--noheader").strip(), cluster)
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _own_programs(programs: Path, folder: Path) -> Path:
    """Slurm's programs as those of this cluster, as if its configuration lay in /etc.

    A job step's environment has none of Slurm's variables that could name it.
    """
    for program in programs.iterdir():
        own = folder / "bin" / program.name
        own.parent.mkdir(exist_ok=True)
        conf = shlex.quote(str(folder / "slurm.conf"))
        own.write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {shlex.quote(str(program))} "$@"\n')
        own.chmod(0o755)
    return folder / "bin"


def _start(cluster: SlurmCluster, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    name = f"{program}-{arguments[2]}" if program == "slurmd" else program
    with (cluster.folder / f"{name}.out.log").open("wb") as log:
        command = [str(cluster.bin / program), *arguments]
        return subprocess.Popen(command, env=cluster.environment(), stdout=log, stderr=log)


def _wait(is_so: Callable[[], bool], cluster: SlurmCluster) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, cluster.logs()
        time.sleep(0.2)


def _idle(cluster: SlurmCluster) -> int:
    """How many nodes can take jobs."""
    command = [str(cluster.bin / "sinfo"), "--noheader", "--Node", "--format=%T"]
    done = subprocess.run(command, env=cluster.environment(), capture_output=True, text=True)
    return done.stdout.split().count("idle")


def _write_files(folder: Path, nodes: Mapping[str, Node]) -> None:
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))
    (folder / "state").mkdir()
    controller, *ports = _free_ports(1 + len(nodes))
    user = getpass.getuser()
    lines = [
        "ClusterName=test",
        f"SlurmctldHost={socket.gethostname()}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        # Neither daemon nor command listens anywhere else.
        "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        f"StateSaveLocation={folder / 'state'}",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder / 'slurmctld.pid'}",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={folder / 'slurmctld.log'}",
        f"SlurmdLogFile={folder}/slurmd-%n.log",
        f"PluginDir={setup_slurm.plugins()}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder / 'munge.socket'}",
        "CredType=cred/munge",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        # A second from sampling to sampling; a job that takes more than it asked for is killed.
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        "JobAcctGatherParams=OverMemoryKill",
        "GresTypes=gpu",
        "MinJobAge=3600",
        "ReturnToService=2",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2",
        # A node is as large as is said here, whatever the machine has.
        "SlurmdParameters=config_overrides",
        "KillWait=2",
    ]
    for (name, node), port in zip(nodes.items(), ports, strict=True):
        lines.append(
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={node.cpus} RealMemory={node.memory} Gres=gpu:{node.gpus} State=UNKNOWN"
        )
    lines.append(f"PartitionName=all Nodes={','.join(nodes)} Default=YES MaxTime=INFINITE State=UP")
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    (folder / "gres.conf").write_text("\n".join(_gpus(folder, nodes)) + "\n")


def _gpus(folder: Path, nodes: Mapping[str, Node]) -> Generator[str]:
    """Lines for the GPUs that nodes say they have; in place of each device there is a file."""
    for name, node in nodes.items():
        for number in range(node.gpus):
            device = folder / f"{name}-gpu{number}"
            device.touch()
            yield f"NodeName={name} Name=gpu File={device}"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
