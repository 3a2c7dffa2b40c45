"""Measures a release on a real server: speed, MTP acceptance, and whether MTP changes the text.

For each number of drafted tokens one server is started, warmed up with one untimed decode, and
asked two things, always greedily (temperature 0):

- *Decodes* of exactly `decode_tokens` tokens, the end of the text ignored, once with each number of
  parallel requests. Decode i of length i starts at prompt i, so every launch does the same work.
  They give tokens per second: generated tokens of all requests by the wall time from the first
  request to the last answer, prefill included.
- *Replies* to every prompt, ended by the model itself (or after `reply_tokens`). They give the
  acceptance that users see: past the end of its reply a model writes what nobody asked for, and
  acceptance there means little.

Acceptance comes from the server's own counters, read before and after; each kind has its own. The
launch with 0 drafted tokens is the baseline: the others' token ids are compared with its.

`serving.json` in the artifact:

    {"engine":   {"name", "version", "environment", "max_model_len", "max_num_seqs",
                  "kv_cache_tokens"},
     "hardware": {"kind": "cpu"|"gpu"|"unknown", "name", "count"},
     "prompts":  {"file", "sha256", "names": […]},
     "warm_up_tokens": …,
     "runs": [{"speculative_tokens": n, "command": […] | null, "start_seconds": s | null,
               "kv_cache_tokens": … | null,
               "decodes": [{"tokens", "parallel", "prompts": [name, …], "seconds",
                            "tokens_per_second"}],
               "replies": {"requests", "tokens", "seconds", "tokens_per_second"},
               "acceptance": {"replies": A, "decodes": A} | null,
               "same_text_as_baseline": {"identical", "total", "differences":
                    [{"prompt", "length", "first_difference"}]} | null}]}

with A = {"drafts", "draft_tokens", "accepted", "per_position": […], "mean_length"} or null. A
difference's `first_difference` is the place, from 0, of the first token that differs.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scion.artifact import Artifact, Draft, remake
from scion.chats import Chat, read_chats, token_ids
from scion.config import Measurement, Section, Serving
from scion.decoding import Answer, Prompt, compare, generate, generate_together
from scion.digest import digest_file
from scion.engines import vllm
from scion.engines.options import UNMEASURED, add_server_options
from scion.engines.server import Server
from scion.files import write_json
from scion.stage_cli import add_settings, read_settings, run_stage, stage_parser

STAGE = "measure_serving"
RESULT = "serving.json"
_WARM_UP_TOKENS = 16


class Settings(Section):
    """The sections of the configuration that this stage reads."""

    serving: Serving
    measurement: Measurement


def measure_serving(
    *,
    release: Artifact,
    prompts: Path,
    output: Path,
    serving: Serving,
    measurement: Measurement,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Serve a release with each number of drafted tokens and record what was measured.

    Args:
        release: A complete checkpoint with its MTP head.
        prompts: JSONL of chats; see `scion.chats`.
        output: Folder of the artifact.
        serving: The server.
        measurement: What to decode.
        python: Interpreter of the serving environment.
        log_folder: Where `measure_serving.n<drafted tokens>.server.log` go.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The server can't be started or dies, a request fails or is answered with fewer
            tokens than asked, or the prompts can't be used.
    """

    def build(draft: Draft) -> None:
        chats = read_chats(prompts)
        runs: list[dict[str, Any]] = []
        about: dict[str, Any] = {}
        baseline: list[Answer] | None = None
        for drafted in measurement.speculative_tokens:
            print(f"{STAGE}: {drafted} drafted tokens", file=sys.stderr, flush=True)
            with vllm.serve(
                release.folder,
                name="release",
                speculative_tokens=drafted,
                serving=serving,
                python=python,
                log=log_folder / f"{STAGE}.n{drafted}.server.log",
            ) as server:
                run, answers = _measure(server, chats, measurement)
                about = about or {
                    "engine": vllm.describe(server, serving),
                    "hardware": vllm.hardware(serving),
                }
            if drafted == 0:
                baseline = answers
            same = compare(baseline, answers) if baseline and drafted else None
            runs.append({"speculative_tokens": drafted, **run, "same_text_as_baseline": same})
        result = {
            **about,
            "prompts": {
                "file": prompts.name,
                "sha256": digest_file(prompts),
                "names": [chat.name for chat in chats],
            },
            "warm_up_tokens": _WARM_UP_TOKENS,
            "runs": runs,
        }
        write_json(draft.folder / RESULT, result)

    return remake(
        output,
        stage=STAGE,
        inputs={"release": release, "prompts": prompts},
        settings={
            "serving": serving.model_dump(mode="json", exclude=UNMEASURED),
            "measurement": measurement.model_dump(mode="json", exclude={"prompts"}),
        },
        environment=environment,
        build=build,
    )


def _measure(
    server: Server, chats: Sequence[Chat], measurement: Measurement
) -> tuple[dict[str, Any], list[Answer]]:
    """One launch: its record, and what single requests generated."""
    prompts = [Prompt(chat.name, token_ids(server, chat, reply=True)) for chat in chats]
    generate(server, prompts[0], _WARM_UP_TOKENS)
    before = vllm.read_counters(server.read("/metrics"))
    begin = time.perf_counter()
    replies = [
        generate(server, prompt, measurement.reply_tokens, to_the_end=False) for prompt in prompts
    ]
    seconds = time.perf_counter() - begin
    between = vllm.read_counters(server.read("/metrics"))
    decodes, singles = _decode(server, prompts, measurement)
    after = vllm.read_counters(server.read("/metrics"))
    total = sum(len(reply.tokens) for reply in replies)
    acceptance = {
        "replies": (between - before).summary(),
        "decodes": (after - between).summary(),
    }
    run = {
        "command": list(server.command) if server.command else None,
        "start_seconds": server.start_seconds,
        "kv_cache_tokens": vllm.cache_tokens(server.log),
        "decodes": decodes,
        "replies": {
            "requests": len(replies),
            "tokens": total,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(total / seconds, 2),
        },
        "acceptance": acceptance if any(acceptance.values()) else None,
    }
    return run, [*replies, *singles]


def _decode(
    server: Server, prompts: Sequence[Prompt], measurement: Measurement
) -> tuple[list[dict[str, Any]], list[Answer]]:
    """The timed decodes of one launch, and what the single ones generated."""
    records: list[dict[str, Any]] = []
    singles: list[Answer] = []
    for parallel in measurement.parallel_requests:
        for place, length in enumerate(measurement.decode_tokens):
            chosen = [prompts[(place + offset) % len(prompts)] for offset in range(parallel)]
            begin = time.perf_counter()
            answers = generate_together(server, chosen, length)
            seconds = time.perf_counter() - begin
            rate = parallel * length / seconds
            records.append(
                {
                    "tokens": length,
                    "parallel": parallel,
                    "prompts": [prompt.name for prompt in chosen],
                    "seconds": round(seconds, 3),
                    "tokens_per_second": round(rate, 2),
                }
            )
            print(
                f"{STAGE}: {parallel} × {length} tokens: {rate:.1f} tok/s",
                file=sys.stderr,
                flush=True,
            )
            if parallel == 1:
                singles += answers
    return records, singles


def main() -> int:
    """Parse the command line and run the stage."""
    parser = stage_parser(__doc__, inputs={"release": "manifest of a complete checkpoint"})
    parser.add_argument(
        "--prompts", required=True, type=Path, metavar="FILE", help="JSONL of chats to decode"
    )
    add_server_options(parser)
    add_settings(parser, Settings)
    arguments = parser.parse_args()

    def command() -> Artifact:
        settings = read_settings(arguments.settings, Settings)
        return measure_serving(
            release=Artifact.open(arguments.release),
            prompts=arguments.prompts,
            output=arguments.output.parent,
            serving=settings.serving,
            measurement=settings.measurement,
            python=arguments.python,
            log_folder=arguments.log_folder,
            environment=arguments.environment,
        )

    return run_stage(command)


if __name__ == "__main__":
    sys.exit(main())
