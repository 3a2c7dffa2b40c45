"""Measures a release on a real server: speed, MTP acceptance, and whether MTP changes the text.

For each launch, and for each number of drafted tokens, a server is started and asked, always
greedily (temperature 0):

- *Replies* to every prompt, with thinking and without, ended by the model itself or after
  `reply_tokens`; of the first launch alone. The server's own counters, read around each, give the
  acceptance that users see. The token ids are compared with those of the server without drafts.
- *Decodes* of exactly `decode_tokens` tokens, timed by vLLM's own benchmark, `vllm bench serve`,
  `repeats` times each, by one request and by several at the same time; a short one of each warms
  up and is not timed. They give tokens per second (generated tokens of all requests by the wall
  time from the first request sent to the last token received, prefill included), the time to the
  first token and the time between tokens, all as medians over the repeats; and the ratio to the
  same launch without drafts in this run.

What the first launch showed with two numbers of drafts or more predicts how fast other numbers are
(`scion.evaluation.serving.depth`). If `speculative_tokens` says `best`, the number that is
predicted to be fastest is measured as well, unless it was.

What runs beside a server does not change its replies. On a CPU with several cores those of all
servers are asked for at the same time, then each is started again and timed alone. On a GPU, whose
memory is one server's own, a server is asked for both.

A failed request, or an answer that is shorter than asked, fails the stage.

`serving.json` in the artifact, E being `scion.evaluation.intervals.Estimate.record`:

    {"engine":   {"name", "version", "environment"},
     "hardware": {"kind": "cpu"|"gpu"|"unknown", "name", "count"},
     "prompts":  {"file", "sha256", "sets": {set: count}},
     "runs": [{"launch", "max_model_len", "max_num_seqs", "tensor_parallel", "kv_cache_dtype",
               "speculative_tokens", "command": C | null, "start_seconds": s | null,
               "kv_cache_tokens": … | null, "concurrency": requests of full context | null,
               "memory": {"weights_gib", "kv_cache_gib", "graphs_gib"}, each or null,
               "speed": [{"tokens", "parallel", "repeats", "tokens_per_second": E, "ttft_ms": E,
                          "itl_ms": E, "ratio_to_baseline": E | null}],
               "acceptance": [{"set": name | "all", "thinking": bool | null, "prompts", "drafts",
                               "draft_tokens", "accepted_by_position": […], "per_position": [E],
                               "mean_length": E}] | null,
               "replies": [{"prompt", "set", "thinking": bool, "drafts",
                            "accepted_by_position": […]}] | null,
               "same_text_as_baseline": {"identical", "total", "differences":
                    [{"prompt", "length", "first_difference"}]} | null}],
     "prediction": {"launch", "tokens", "parallel", "conditional_acceptance": [by position],
                    "measured_steps": [{"speculative_tokens", "tokens_a_step", "step_ms"}],
                    "speeds": [{"speculative_tokens", "tokens_a_step", "step_ms",
                                "tokens_per_second", "measured": E | null}],
                    "best": drafts} | null}

The prediction is of the longest decode of the fewest `parallel` requests; `measured_steps` are what
it was made from, `measured` is what each number came to, also one that was measured because of it.
C is the server's command, but for interpreter, folder, served name and port, as
`scion.engines.vllm.command.ServerCommand.record` has it: {"variables", "start", "options"}. It and
what the log tells are null for a server that ran already. `timings.jsonl` beside it
holds every timed decode.
"""

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.common.memory import available_memory
from scion.common.progress import progress
from scion.common.section import Section
from scion.common.threads import unawaited_pool
from scion.engines.config import Launch, Serving
from scion.engines.server import Server
from scion.engines.vllm.bench import Benchmark, benchmark
from scion.evaluation.chats import Chat
from scion.evaluation.decoding import compare_answers
from scion.evaluation.serving.config import RECORD, Measurement
from scion.evaluation.serving.depth import measured_depths, predict_depths, prediction_record
from scion.evaluation.serving.progress import MeasurementProgress, ServerProgress, serving_work
from scion.evaluation.serving.prompts import count_sets, read_prompt_sets
from scion.evaluation.serving.session import (
    Replies,
    ServerRun,
    Session,
    ask_replies,
    time_decodes,
)
from scion.evaluation.serving.speed import speed_records
from scion.stages.served import ServedStage, recorded, run_served_stage

STAGE, RESULT = RECORD.stage, RECORD.name
TIMINGS = "timings.jsonl"
# Memory of an emulated NVFP4 weight by its bytes on disk, at most: 0.56 of them a weight, then 2.
_EMULATED = 5


class ServingSettings(Section):
    """The sections of the configuration that this stage reads."""

    serving: Serving
    launches: tuple[Launch, ...]
    measurement: Measurement


def measure_serving(
    *,
    release: Artifact,
    prompts: Path,
    output: Output,
    serving: Serving,
    launches: Sequence[Launch],
    measurement: Measurement,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Serve a release by each launch and number of drafted tokens, and record what was measured.

    Args:
        release: A complete checkpoint with its MTP head.
        prompts: JSONL of chats with their `set`; see `scion.evaluation.chats`.
        output: Where the artifact goes.
        serving: The server.
        launches: To be timed; the first is asked for replies as well.
        measurement: What to decode.
        python: Interpreter of the serving environment.
        log_folder: Where `measure_serving.<launch>.n<drafted tokens>.server.log` go.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The server can't be started or dies, a request fails or is answered with fewer
            tokens than asked, its counters can't be right, or the prompts can't be used.
    """
    started = [
        launch.model_copy(update={"speculative_tokens": drafted})
        for launch in launches
        for drafted in measurement.drafts
    ]
    if serving.server_url is not None and len(started) != 1:
        raise ScionError(
            "a server that runs already is one launch with one number of drafts",
            where="serving.server_url",
            expected="one of measurement.launches, one number in measurement.speculative_tokens",
            found=f"{len(launches)} and {len(measurement.speculative_tokens)} of them",
            hint="name the launch and the drafts of that server, or set serving.server_url to null",
        )

    served = ServedStage(STAGE, serving, python, log_folder)

    def build(draft: Draft) -> None:
        chats = read_prompt_sets(prompts)
        asked = [launch for launch in started if launch.name == launches[0].name]
        together = _servers_together(release, serving, len(asked))
        # The first launch once more, with the drafts that are predicted to be fastest.
        possible = [*started, *(asked[:1] if measurement.best_drafts else ())]
        servers = len(possible) + (len(asked) if together > 1 else 0)
        work = serving_work(possible, measurement, len(chats), servers=servers)
        log = served.log("bench")
        with (
            progress("measuring", work) as told,
            benchmark(python=python, serving=serving, inherited=os.environ, log=log) as bench,
        ):
            measured = MeasurementProgress(STAGE, servers=servers, told=told)
            one = _Measuring(release, served, measurement, chats, prompts, bench, measured)
            replies = one.ask_together(asked, together) if together > 1 else []
            for launch, said in zip_longest(asked, replies):
                one.measure(launch, said, asked=True)
            prediction = predict_depths(measured_depths(one.records()))
            if prediction is not None and measurement.best_drafts:
                best = launches[0].model_copy(update={"speculative_tokens": prediction.best})
                measured.say(f"predicted to be fastest: {prediction.best} drafts a step")
                if prediction.best not in measurement.drafts:
                    one.measure(best, None, asked=True)
            first = len(one.runs)
            for launch in started[len(asked) :]:
                one.measure(launch, None, asked=False)
        records = one.records()
        result = {
            **one.about,
            "prompts": {
                "file": prompts.name,
                "sha256": digest_file(prompts),
                "sets": count_sets(chats),
            },
            "runs": records,
            "prediction": prediction and prediction_record(prediction, records[:first]),
        }
        write_json(draft.folder / RESULT, result)
        (draft.folder / TIMINGS).write_text("".join(map(_timing_lines, one.runs)))
        measured.done()

    return remake(
        output,
        stage=STAGE,
        inputs={"release": release, "prompts": prompts},
        settings={
            "serving": recorded(serving),
            "launches": [launch.model_dump(mode="json", exclude={"title"}) for launch in launches],
            "measurement": measurement.model_dump(mode="json", exclude={"launches", "prompts"}),
        },
        environment=environment,
        build=build,
    )


@dataclass
class _Measuring:
    """Servers that are measured one after the other, and what they showed.

    Attributes:
        release: What they serve.
        served: How they are started.
        measurement: What they are asked.
        chats: The prompts.
        prompts: The prompts' file, for errors.
        bench: vLLM's benchmark.
        measured: Told of every step.
        runs: Every server that was timed.
        about: Engine and hardware, of the first of them.
    """

    release: Artifact
    served: ServedStage
    measurement: Measurement
    chats: Sequence[Chat]
    prompts: Path
    bench: Benchmark
    measured: MeasurementProgress
    runs: list[ServerRun] = field(default_factory=list[ServerRun])
    about: dict[str, Any] = field(default_factory=dict[str, Any])

    def ask_together(self, launches: Sequence[Launch], together: int) -> list[Replies]:
        """What the servers of some launches reply, all of them started at once."""
        with ExitStack() as stack:
            pool = stack.enter_context(unawaited_pool(together))
            pending: list[Future[Replies]] = []
            for launch in launches:
                name = _name(launch, "replies")
                shown = self.measured.next_server(name)
                server = stack.enter_context(self.served.server(self.release, launch, name))
                pending.append(pool.submit(self._ask, self._session(server, launch, shown)))
            return [future.result() for future in pending]

    def measure(self, launch: Launch, said: Replies | None, *, asked: bool) -> None:
        """Time a server.

        Args:
            launch: How it is started.
            said: What another server of this launch has replied.
            asked: Whether it is asked for replies if there are none.
        """
        shown = self.measured.next_server(_name(launch))
        with self.served.server(self.release, launch, _name(launch), timed=True) as server:
            one = self._session(server, launch, shown)
            if said is None and asked:
                said = self._ask(one)
            run = time_decodes(one, self.chats, self.measurement, replies=said, path=self.prompts)
            self.runs.append(run)
            self.about.update(self.about or self.served.describe(server, launch))

    def records(self) -> list[dict[str, Any]]:
        """The servers as `serving.json` has them."""
        return [_record(run, _baseline(run, self.runs)) for run in self.runs]

    def _session(self, server: Server, launch: Launch, shown: ServerProgress) -> Session:
        shown.ready()
        return Session(server, launch, self.release.folder, self.bench, shown)

    def _ask(self, one: Session) -> Replies:
        return ask_replies(one, self.chats, self.measurement, path=self.prompts)


def _name(launch: Launch, *more: str) -> str:
    """Of a server, as its log has it."""
    return ".".join((launch.name, f"n{launch.speculative_tokens}", *more))


def _servers_together(release: Artifact, serving: Serving, servers: int) -> int:
    """How many servers may be asked for replies at the same time: as many as there are cores for.

    All of them are started, so there must be memory for all.
    """
    if serving.server_url is not None or serving.environment != "serve-cpu":
        return 1
    # In emulation each weight is there twice: packed, and in bf16.
    weights = sum(entry["size"] for entry in release.files.values())
    need = servers * (_EMULATED * weights + serving.kv_cache_gigabytes * (1 << 30))
    cores = len(os.sched_getaffinity(0)) // serving.cpu_threads
    return max(1, min(cores, servers)) if need < available_memory() else 1


def _baseline(run: ServerRun, runs: Sequence[ServerRun]) -> ServerRun | None:
    """The same launch without drafts; None for that itself, or where it was not asked for."""
    without = run.launch.model_copy(update={"speculative_tokens": 0})
    return next((other for other in runs if other.launch == without and other is not run), None)


def _record(run: ServerRun, baseline: ServerRun | None) -> dict[str, Any]:
    """One server as `serving.json` has it."""
    launch, server = run.launch, run.server
    same = None
    if baseline is not None and baseline.replies is not None and run.replies is not None:
        same = compare_answers(baseline.replies.answers, run.replies.answers)
    return {
        "launch": launch.name,
        "max_model_len": launch.max_model_len,
        "max_num_seqs": launch.max_num_seqs,
        "tensor_parallel": launch.tensor_parallel,
        "kv_cache_dtype": launch.kv_cache_dtype,
        "speculative_tokens": launch.speculative_tokens,
        "command": server.command,
        "start_seconds": server.start_seconds,
        **run.capacity,
        "speed": speed_records(run.timed, baseline.timed if baseline else None),
        "acceptance": run.replies.acceptance if run.replies else None,
        "replies": run.replies.counts if run.replies else None,
        "same_text_as_baseline": same,
    }


def _timing_lines(run: ServerRun) -> str:
    """Every timed decode of one server as JSON lines."""
    rows = [
        {
            "launch": run.launch.name,
            "speculative_tokens": run.launch.speculative_tokens,
            "repeat": wave.repeat,
            "tokens": wave.tokens,
            "prompts": [run.prompts[place].label for place in wave.prompts],
            **asdict(timing),
        }
        for wave, timing in run.timed
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def main() -> int:
    """Parse the command line and run the stage."""
    files = {"prompts": "JSONL of chats to decode"}
    return run_served_stage(measure_serving, __doc__, settings=ServingSettings, files=files)


if __name__ == "__main__":
    sys.exit(main())
