"""Compares the perplexity of source and release on held-out chats, token for token.

Two servers, one after the other and without speculation: the bf16 checkpoint that was quantized,
and the release. Each renders the chats with its own template, which must give the same tokens, and
returns the log-probability of every token (`prompt_logprobs` of /v1/completions). Both models thus
run in the engine that users run, with its kernels, not in a second implementation.

Losses are told over all tokens, and over those that the assistant wrote: from after
`<|im_start|>assistant` to `<|im_end|>`, which is what the family's fine-tunes train on.

`perplexity.json` in the artifact, losses in nats a token:

    {"engine": {…as in serving.json}, "hardware": {…as there},
     "dataset": {"file", "sha256", "chats", "tokens", "chats_cut"},
     "source":     {"all": S, "assistant": S},
     "release":    {"all": S, "assistant": S},
     "difference": {"all": D, "assistant": D},
     "by_chat": [{"name", "source": {"all": S, …}, "release": {…}}]}

with S = {"tokens", "loss", "perplexity"} and D = {"loss", "standard_error", "perplexity_ratio"},
the loss being release minus source.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.artifact import Artifact, Draft, remake
from scion.chats import Chat, read_chats, text_ids, token_ids
from scion.config import Perplexity, Section, Serving
from scion.digest import digest_file
from scion.engines import vllm
from scion.engines.options import UNMEASURED, add_server_options
from scion.engines.server import Server
from scion.errors import ScionError
from scion.files import write_json
from scion.perplexity import Score, assistant_mask, paired_difference, score, total
from scion.stage_cli import add_settings, read_settings, run_stage, stage_parser

STAGE = "evaluate_perplexity"
RESULT = "perplexity.json"
PARTS = ("all", "assistant")


class Settings(Section):
    """The sections of the configuration that this stage reads."""

    serving: Serving
    perplexity: Perplexity


@dataclass(frozen=True)
class Scored:
    """What one server said about the chats.

    Attributes:
        tokens: Token ids by chat, before they were cut.
        scores: By part, the score of each chat.
        about: Engine and hardware.
    """

    tokens: list[list[int]]
    scores: dict[str, list[Score]]
    about: dict[str, Any]


def evaluate_perplexity(
    *,
    source: Artifact,
    release: Artifact,
    dataset: Path,
    output: Path,
    serving: Serving,
    perplexity: Perplexity,
    python: Path,
    log_folder: Path,
    environment: str,
) -> Artifact:
    """Score the same held-out chats with source and release.

    Args:
        source: The bf16 checkpoint that was quantized.
        release: The quantized one.
        dataset: JSONL of chats; see `scion.chats`.
        output: Folder of the artifact.
        serving: The servers.
        perplexity: How many chats, and how long they may be.
        python: Interpreter of the serving environment.
        log_folder: Where `evaluate_perplexity.<source or release>.server.log` go.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The data set is unreadable, empty or too small, a server can't be started or
            dies, a request fails, or the two checkpoints make different tokens of a chat.
    """

    def build(draft: Draft) -> None:
        _check_settings(serving, perplexity)
        chats = read_chats(dataset, limit=perplexity.samples)
        scored: dict[str, Scored] = {}
        for name, artifact in (("source", source), ("release", release)):
            print(f"{STAGE}: {name}", file=sys.stderr, flush=True)
            with vllm.serve(
                artifact.folder,
                name=name,
                speculative_tokens=0,
                serving=serving,
                python=python,
                log=log_folder / f"{STAGE}.{name}.server.log",
            ) as server:
                about = {
                    "engine": vllm.describe(server, serving),
                    "hardware": vllm.hardware(serving),
                }
                scored[name] = _score(server, chats, perplexity.max_tokens, about)
        _check_tokens(chats, scored, release.folder)
        data = {"file": dataset.name, "sha256": digest_file(dataset)}
        write_json(draft.folder / RESULT, _report(chats, scored, data, perplexity.max_tokens))

    return remake(
        output,
        stage=STAGE,
        inputs={"source": source, "release": release, "dataset": dataset},
        settings={
            "serving": serving.model_dump(mode="json", exclude=UNMEASURED),
            "perplexity": perplexity.model_dump(mode="json", exclude={"dataset"}),
        },
        environment=environment,
        build=build,
    )


def _check_settings(serving: Serving, perplexity: Perplexity) -> None:
    if perplexity.max_tokens >= serving.max_model_len:
        raise ScionError(
            "the held-out chats do not fit the server's context",
            where="perplexity.max_tokens",
            expected=f"less than serving.max_model_len, {serving.max_model_len}",
            found=perplexity.max_tokens,
            hint="lower perplexity.max_tokens or raise serving.max_model_len",
        )
    if serving.server_url is not None:
        raise ScionError(
            "perplexity needs two models, and serving.server_url names one server",
            where="serving.server_url",
            expected="null",
            found=serving.server_url,
            hint="set serving.server_url to null, so that both servers are started in turn",
        )


def _score(server: Server, chats: Sequence[Chat], limit: int, about: dict[str, Any]) -> Scored:
    """Render and score every chat on one server."""
    header = text_ids(server, "<|im_start|>assistant\n")
    (end,) = text_ids(server, "<|im_end|>")
    tokens = [token_ids(server, chat, reply=False) for chat in chats]
    scores: dict[str, list[Score]] = {part: [] for part in PARTS}
    for chat, ids in zip(chats, tokens, strict=True):
        cut = ids[:limit]
        logprobs = _logprobs(server, chat.name, cut)
        scores["all"].append(score(logprobs, [True] * len(cut)))
        scores["assistant"].append(score(logprobs, assistant_mask(cut, header, end)))
    for part in PARTS:
        if total(scores[part]).tokens == 0:
            raise server.failure(
                f"no chat has tokens to score ({part})",
                where="the held-out chats",
                expected="assistant turns between <|im_start|>assistant and <|im_end|>",
                found="none",
            )
    return Scored(tokens, scores, about)


def _logprobs(server: Server, name: str, tokens: list[int]) -> list[float | None]:
    """Log-probability (nats) of each token given those before it; None for the first."""
    body = {
        "model": server.model,
        "prompt": tokens,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
    }
    rows = server.ask("/v1/completions", body)["choices"][0]["prompt_logprobs"]
    if len(rows) != len(tokens):
        raise server.failure(
            "a chat was scored short",
            where=f"chat {name}",
            expected=f"{len(tokens)} log-probabilities",
            found=len(rows),
        )
    return [
        None if row is None else row[str(token)]["logprob"]
        for row, token in zip(rows, tokens, strict=True)
    ]


def _check_tokens(chats: Sequence[Chat], scored: dict[str, Scored], release: Path) -> None:
    """Losses of different tokens can't be compared."""
    pairs = zip(scored["source"].tokens, scored["release"].tokens, strict=True)
    for chat, (source, other) in zip(chats, pairs, strict=True):
        if source != other:
            raise ScionError(
                "source and release make different tokens of the same chat",
                where=f"{release}: chat {chat.name}",
                expected=f"{len(source)} tokens, as the source makes",
                found=f"{len(other)} tokens",
                hint="compare the tokenizer files and chat_template.jinja of both folders",
            )


def _report(
    chats: Sequence[Chat], scored: dict[str, Scored], data: dict[str, Any], limit: int
) -> dict[str, Any]:
    source, release = scored["source"], scored["release"]

    def parts(name: str, at: int | None = None) -> dict[str, Any]:
        scores = scored[name].scores
        # A chat that was cut before its first answer has no assistant tokens, hence no loss.
        chosen = {part: total(scores[part]) if at is None else scores[part][at] for part in PARTS}
        return {part: one.summary() for part, one in chosen.items() if one.tokens}

    return {
        **release.about,
        "dataset": {
            **data,
            "chats": len(chats),
            "tokens": sum(min(len(ids), limit) for ids in source.tokens),
            "chats_cut": sum(len(ids) > limit for ids in source.tokens),
        },
        "source": parts("source"),
        "release": parts("release"),
        "difference": {
            part: paired_difference(source.scores[part], release.scores[part]) for part in PARTS
        },
        "by_chat": [
            {"name": chat.name, "source": parts("source", at), "release": parts("release", at)}
            for at, chat in enumerate(chats)
        ],
    }


def main() -> int:
    """Parse the command line and run the stage."""
    parser = stage_parser(
        __doc__,
        inputs={
            "source": "manifest of the bf16 checkpoint that was quantized",
            "release": "manifest of the quantized checkpoint",
        },
    )
    parser.add_argument(
        "--dataset", required=True, type=Path, metavar="FILE", help="JSONL of held-out chats"
    )
    add_server_options(parser)
    add_settings(parser, Settings)
    arguments = parser.parse_args()

    def command() -> Artifact:
        settings = read_settings(arguments.settings, Settings)
        return evaluate_perplexity(
            source=Artifact.open(arguments.source),
            release=Artifact.open(arguments.release),
            dataset=arguments.dataset,
            output=arguments.output.parent,
            serving=settings.serving,
            perplexity=settings.perplexity,
            python=arguments.python,
            log_folder=arguments.log_folder,
            environment=arguments.environment,
        )

    return run_stage(command)


if __name__ == "__main__":
    sys.exit(main())
