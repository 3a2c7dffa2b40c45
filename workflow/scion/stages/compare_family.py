"""Compare the releases of a family: speed in one run, beside what was measured of each alone.

The releases are served in turn, by one kind of server on one machine, and their decodes timed by
vLLM's own benchmark as `measure_serving` does: `measurement.repeats` times each, spread over
`family.rounds` rounds, so that a machine that becomes slower touches all of them
(`scion.evaluation.family.rounds`). Ratios are to the family's baseline in this run. Acceptance,
agent tasks and quality do not depend on the hour: they are those of each release's own records.
Where a release and the baseline both draft, acceptance is compared prompt by prompt, for both were
asked the same.

`family.json` in the artifact, E being `scion.evaluation.intervals.Estimate.record`:

    {"family":   {"name", "title", "baseline", "rounds"},
     "engine":   {"name", "version", "environment"},
     "hardware": {"kind", "name", "count"},
     "prompts":  {"file", "sha256", "sets": {set: count}},
     "releases": [{"release", "repository", "weights": digest, "bytes", "algorithm", "spelling",
                   "launch", "speculative_tokens",
                   "speed": [{"tokens", "parallel", "repeats", "tokens_per_second": E,
                              "ttft_ms": E, "itl_ms": E, "ratio_to_baseline": E | null}],
                   "acceptance": a row of `serving.json` | null,
                   "acceptance_beside_baseline":
                       [{"set": name | "all", "thinking": bool | null, "prompts",
                         "one": A, "other": A, "difference": {"per_position": [E],
                                                              "mean_length": E}}] | null,
                   "agent_tasks": {"passed", "total", "rate": E},
                   "quality": {"reference", "models": those of `quality.json`}}]}

`one` is the release, `other` the baseline, A {"per_position": […], "mean_length"}: see
`scion.evaluation.serving.acceptance.paired_acceptance`.

`family_timings.jsonl` beside it holds every timed decode.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.digest import digest_file
from scion.common.files import write_json
from scion.common.progress import progress
from scion.common.section import Section
from scion.engines.config import Serving
from scion.engines.vllm.bench import benchmark
from scion.evaluation.family.config import RECORD, FamilyMember, ReleaseFamily
from scion.evaluation.family.record import Member, member_record
from scion.evaluation.family.rounds import Timed, timed_rounds, turns
from scion.evaluation.serving.config import Measurement
from scion.evaluation.serving.progress import MeasurementProgress, family_work
from scion.evaluation.serving.prompts import count_sets, read_prompt_sets
from scion.evaluation.serving.session import Session, time_decodes
from scion.stages.common_options import (
    add_file,
    add_settings,
    read_settings,
    run_stage,
    stage_parser,
)
from scion.stages.served import ServedStage, add_server_options, recorded

STAGE = RECORD.stage
TIMINGS = "family_timings.jsonl"
_INPUTS = {
    "releases": "pointers of the releases' checkpoints, in the order of the settings",
    "serving": "pointers of their measure_serving, in the same order",
    "agent-tasks": "pointers of their run_agent_tasks",
    "quality": "pointers of their evaluate_quality",
}


class FamilySettings(Section):
    """The sections of the configuration that this stage reads."""

    family: ReleaseFamily
    members: tuple[FamilyMember, ...]
    serving: Serving
    measurement: Measurement


def compare_family(
    *,
    members: Sequence[Member],
    prompts: Path,
    output: Output,
    family: ReleaseFamily,
    serving: Serving,
    measurement: Measurement,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Serve the releases in turn, time them, and put what is known of them side by side.

    Args:
        members: The releases, in the order of the table.
        prompts: JSONL of chats with their `set`.
        output: Where the artifact goes.
        family: Its name, its baseline, and how often each release is served.
        serving: The server.
        measurement: What to decode.
        python: Interpreter of the serving environment.
        log_folder: Where `compare_family.<release>.server.log` go.
        environment: Identity of the locked environment.

    Raises:
        ScionError: A server can't be started or dies, a request fails or is answered short.
    """
    served = ServedStage(STAGE, serving, python, log_folder)

    def build(draft: Draft) -> None:
        chats = read_prompt_sets(prompts)
        about: dict[str, Any] = {}
        order = list(turns(len(members), measurement.repeats, family.rounds))
        work = family_work([len(repeats) for _, repeats in order], measurement, len(chats))
        with (
            progress("measuring", work) as told,
            benchmark(
                python=python, serving=serving, inherited=os.environ, log=served.log("bench")
            ) as bench,
        ):
            measured = MeasurementProgress(STAGE, servers=len(order), told=told)

            def time_release(place: int, repeats: Sequence[int]) -> Timed:
                member = members[place]
                launch, name = member.about.launch, member.about.name
                shown = measured.next_server(name)
                with served.server(member.release, launch, name, timed=True) as server:
                    shown.ready()
                    session = Session(server, launch, member.release.folder, bench, shown)
                    run = time_decodes(
                        session, chats, measurement, replies=None, path=prompts, repeats=repeats
                    )
                    about.update(about or served.describe(server, launch))
                return run.timed

            timed = timed_rounds(
                len(members), measurement.repeats, family.rounds, time_release=time_release
            )
        names = [member.about.name for member in members]
        place = names.index(family.baseline)
        baseline = members[place], timed[place]
        result = {
            "family": family.model_dump(mode="json"),
            **about,
            "prompts": {
                "file": prompts.name,
                "sha256": digest_file(prompts),
                "sets": count_sets(chats),
            },
            "releases": [
                member_record(member, own, None if member is baseline[0] else baseline)
                for member, own in zip(members, timed, strict=True)
            ],
        }
        write_json(draft.folder / RECORD.name, result)
        (draft.folder / TIMINGS).write_text(_timing_lines(names, timed))
        measured.done()

    inputs: dict[str, Artifact | Path] = {"prompts": prompts}
    for member in members:
        for artifact in (member.release, member.serving, member.agent_tasks, member.quality):
            inputs[f"{member.about.name}/{artifact.stage}"] = artifact
    return remake(
        output,
        stage=STAGE,
        inputs=inputs,
        settings={
            "family": family.model_dump(mode="json"),
            "members": [member.about.model_dump(mode="json") for member in members],
            "serving": recorded(serving),
            "measurement": measurement.model_dump(
                mode="json", include={"decode_tokens", "parallel_requests", "repeats"}
            ),
        },
        environment=environment,
        build=build,
    )


def _timing_lines(names: Sequence[str], timed: Sequence[Timed]) -> str:
    """Every timed decode as JSON lines."""
    rows = [
        {
            "release": name,
            "repeat": wave.repeat,
            "tokens": wave.tokens,
            "parallel": len(wave.prompts),
            **asdict(timing),
        }
        for name, own in zip(names, timed, strict=True)
        for wave, timing in own
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> int:
    """Parse the command line and run the stage."""
    parser = stage_parser(__doc__, inputs={})
    for name, text in _INPUTS.items():
        parser.add_argument(
            f"--{name}", required=True, nargs="+", type=Path, metavar="POINTER", help=text
        )
    add_file(parser, "prompts", "JSONL of chats to decode")
    add_server_options(parser)
    add_settings(parser, FamilySettings)
    args = parser.parse_args()

    def command(output: Output) -> Artifact:
        settings = read_settings(args.settings, FamilySettings)
        listed = (args.releases, args.serving, args.agent_tasks, args.quality)
        opened = [[output.store.open_pointer(pointer) for pointer in each] for each in listed]
        return compare_family(
            members=[
                Member(about, *artifacts)
                for about, *artifacts in zip(settings.members, *opened, strict=True)
            ],
            prompts=args.prompts,
            output=output,
            family=settings.family,
            serving=settings.serving,
            measurement=settings.measurement,
            python=args.python,
            log_folder=args.log_folder,
            environment=args.environment,
        )

    return run_stage(args, command)


if __name__ == "__main__":
    sys.exit(main())
