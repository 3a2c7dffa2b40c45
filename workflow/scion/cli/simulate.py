"""The command line of `scion simulate`: what a whole run will take of a cluster, beforehand."""

import argparse
import importlib
import os
from collections.abc import Callable
from pathlib import Path

from scion.common.text import printable, printable_json

_DESCRIPTION = """\
Play a run through before it is started: how many jobs, how long, bytes moved by network and disk,
the most that lies on the disk at once, what is busy, which stages take the time, and what a faster
network or disk, more GPUs, sources in the cache or another `scratch` would change. The jobs are
those that `snakemake -n` plans here; what the store has already is not made again."""

_EPILOG = """\
examples:
  scion simulate config/families/X.yaml --gpus 16 --cores 128 --nodes 2
  scion simulate config/families/X.yaml --gpus 16 --network 1000 --disk 5000 --json
  scion simulate config/families/X.yaml --benchmarks benchmarks

Bytes are those of the sources' headers where they can be read. How long a stage computes was
measured on one model, or is guessed, unless --benchmarks names what an earlier run of releases of
this size has measured on such a machine: make one release first. Each assumption is printed.
Cores, GPUs and rates are those of all nodes together.
"""


def add_simulate(
    add_parser: Callable[..., argparse.ArgumentParser], run: Callable[[argparse.Namespace], None]
) -> None:
    """Add the parser of `scion simulate`, which calls `run` with what it has read."""
    parser = add_parser(
        "simulate",
        help="say what a whole run will take of a cluster: days, bytes, room on the disk",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML of a release or a family")
    cluster = parser.add_argument_group("where it shall run")
    cluster.add_argument("--gpus", type=_number, default=0, metavar="N", help="default: 0")
    cluster.add_argument(
        "--cores",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="default: those of this machine",
    )
    cluster.add_argument("--nodes", type=_positive, default=1, metavar="N", help="default: 1")
    for name, rate, what in (
        ("--network", 125.0, "bytes from outside"),
        ("--disk", 1000.0, "bytes read and written"),
    ):
        cluster.add_argument(
            name,
            type=_rate,
            default=rate,
            metavar="MB/S",
            help=f"{what}, in 10^6 a second (default: {rate:g})",
        )
    work = parser.add_argument_group("what jobs take")
    work.add_argument(
        "--benchmarks", type=Path, metavar="FOLDER", help="what an earlier run has measured"
    )
    work.add_argument(
        "--unseen-gb",
        type=_rate,
        default=60.0,
        metavar="X",
        help="size of a source that can't be looked at, in 10^9 bytes (default: 60)",
    )
    work.add_argument(
        "--job-seconds",
        type=_seconds,
        default=2.0,
        metavar="X",
        help="what each job takes to start (default: 2); on Slurm the time of a plan, too",
    )
    work.add_argument(
        "--cached", action="store_true", help="what is fetched lies in the cache of the hub already"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.set_defaults(run=run)


def simulate_run(args: argparse.Namespace) -> None:
    """Run `scion simulate`.

    Raises:
        ScionError: No such configuration, no workflow to plan it with, or no node that it fits.
    """
    from scion.config import read_configs
    from scion.config.simulation.comparison import lines, simulate
    from scion.config.simulation.costs import GIGABYTE, Assumptions, measured_seconds
    from scion.config.simulation.events import Cluster
    from scion.config.simulation.run_plan import planned_run

    # Before Snakemake is started: these say what is wrong in a second.
    configs = read_configs(args.config)
    measured = {} if args.benchmarks is None else measured_seconds(args.benchmarks)
    importlib.import_module("snakemake")
    plan = planned_run(args.config, cores=max(1, args.cores // args.nodes), gpus=args.gpus)
    given = Assumptions(
        unseen=round(args.unseen_gb * GIGABYTE),
        job_seconds=args.job_seconds,
        is_cached=args.cached,
        measured=measured,
        scratch=configs[0].scratch,
    )
    cluster = Cluster(args.nodes, args.cores, args.gpus, args.network * 1e6, args.disk * 1e6)
    found = simulate(plan, given, cluster)
    if args.json:
        print(printable_json(found.record()))
    else:
        print("\n".join(map(printable, lines(found))))


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of that size")
    return int(text)


def _positive(text: str) -> int:
    if (value := _number(text)) == 0:
        raise argparse.ArgumentTypeError("0 is none")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of that size")
    return value


def _rate(text: str) -> float:
    if (value := _seconds(text)) < 1e-3:
        raise argparse.ArgumentTypeError(f"{text!r} is too little")
    return value
