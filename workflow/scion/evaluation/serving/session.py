"""What one server is asked while a release is measured: replies with their counters, decodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scion.common.errors import ScionError
from scion.engines.config import Launch
from scion.engines.server import Server
from scion.engines.vllm import server as vllm
from scion.engines.vllm.bench import Benchmark, Timing
from scion.engines.vllm.counters import SpecDecodeCounters, read_counters
from scion.engines.vllm.log import capacity
from scion.evaluation.chats import Chat
from scion.evaluation.decoding import Answer, Prompt, generate
from scion.evaluation.serving.acceptance import CountedReply, acceptance_rows, reply_rows
from scion.evaluation.serving.config import Measurement
from scion.evaluation.serving.progress import ServerProgress
from scion.evaluation.serving.prompts import check_room, render_prompts
from scion.evaluation.serving.speed import Wave, waves


@dataclass(frozen=True)
class Session:
    """A server that is measured, and what measures it.

    Attributes:
        server: The server.
        launch: How it was started.
        model: The model's folder.
        bench: vLLM's benchmark.
        progress: Told of every step.
    """

    server: Server
    launch: Launch
    model: Path
    bench: Benchmark
    progress: ServerProgress

    def counters(self) -> SpecDecodeCounters:
        """What the server has counted until now."""
        return read_counters(self.server.read("/metrics"))

    def miscount(self, counters: object) -> ScionError:
        """An error about the server's counters."""
        return self.server.failure(
            "the server's counters of drafts can't be right",
            where=f"{self.server.url}/metrics",
            expected="vllm:spec_decode_num_* of a server that drafts "
            f"{self.launch.speculative_tokens} tokens a step",
            found=counters,
        )


@dataclass(frozen=True)
class Replies:
    """What one server replied.

    Attributes:
        answers: In the order in which the prompts were asked.
        acceptance: Rows by set; None without drafts.
        counts: A row for each; None without drafts.
    """

    answers: list[Answer]
    acceptance: list[dict[str, Any]] | None
    counts: list[dict[str, Any]] | None


@dataclass(frozen=True)
class ServerRun:
    """What the servers of one launch showed.

    Attributes:
        launch: How they were started.
        server: The one that was timed; it has ended.
        prompts: In the order in which they were asked.
        replies: None where none were asked for.
        capacity: Cache and memory, as `scion.engines.vllm.log.capacity` has them.
        timed: Every decode.
    """

    launch: Launch
    server: Server
    prompts: list[Prompt]
    replies: Replies | None
    capacity: dict[str, Any]
    timed: list[tuple[Wave, Timing]]


def ask_replies(
    session: Session, chats: Sequence[Chat], measurement: Measurement, *, path: Path
) -> Replies:
    """Ask one server for the model's own replies. What runs beside it does not change them.

    Args:
        session: The server, and what measures it.
        chats: The prompts.
        measurement: What to ask.
        path: The prompts' file, for errors.

    Raises:
        ScionError: As `time_decodes`, or the counters can't be right.
    """
    prompts = _rendered(session, chats, measurement, path, replies=True)
    done = [_reply(session, prompt, measurement.reply_tokens) for prompt in prompts]
    answers, drafted = [reply.answer for reply in done], session.launch.speculative_tokens
    if not drafted:
        return Replies(answers, None, None)
    try:
        rows = acceptance_rows(done, drafted)
    except ValueError as error:
        raise session.miscount(error) from error
    return Replies(answers, rows, reply_rows(done, drafted))


def time_decodes(
    session: Session,
    chats: Sequence[Chat],
    measurement: Measurement,
    *,
    replies: Replies | None,
    path: Path,
    repeats: Sequence[int] | None = None,
) -> ServerRun:
    """Time one server's decodes. Nothing may run beside it.

    Args:
        session: The server, and what measures it.
        chats: The prompts.
        measurement: What to ask.
        replies: What this launch has replied, if it was asked to.
        path: The prompts' file, for errors.
        repeats: Which of the repeats; all if none are named.

    Raises:
        ScionError: The server is not the launch, a prompt does not fit, a request fails or is
            answered short.
    """
    prompts = _rendered(session, chats, measurement, path, replies=replies is not None)
    timed = _decodes(session, prompts, waves(measurement, len(prompts), repeats))
    found = capacity(session.server.log)
    return ServerRun(session.launch, session.server, prompts, replies, found, timed)


def _rendered(
    session: Session,
    chats: Sequence[Chat],
    measurement: Measurement,
    path: Path,
    *,
    replies: bool,
) -> list[Prompt]:
    """The prompts, once they are known to fit this server and all that it may be asked."""
    _check_context(session)
    prompts = render_prompts(session.server, chats)
    lengths = (*measurement.decode_tokens, *((measurement.reply_tokens,) if replies else ()))
    check_room(prompts, answer=max(lengths), context=session.launch.max_model_len, path=path)
    return prompts


def _check_context(session: Session) -> None:
    """A server that was named, not started, could be another than the launch says."""
    context, launch = vllm.context(session.server), session.launch
    if context != launch.max_model_len:
        raise session.server.failure(
            "the server is not the launch that is measured",
            where=f"{session.server.url}/v1/models",
            expected=f"max_model_len {launch.max_model_len}, as launch {launch.name} says",
            found=f"max_model_len {context}",
        )


def _reply(session: Session, prompt: Prompt, tokens: int) -> CountedReply:
    before = session.counters()
    answer = generate(session.server, prompt, tokens)
    counted = session.counters() - before
    if counted.drafts and not session.launch.speculative_tokens:
        raise session.miscount(f"{counted.drafts} drafts during the reply to {prompt.label}")
    kind = f"reply to {prompt.set} {prompt.label}: {len(answer.tokens)} tokens"
    session.progress.replied(kind)
    return CountedReply(prompt, answer, counted)


def _decodes(
    session: Session, prompts: Sequence[Prompt], work: Sequence[Wave]
) -> list[tuple[Wave, Timing]]:
    """The timed decodes, after a short one with each number of requests that warms up."""

    def decode(wave: Wave) -> Timing:
        requests = [prompts[place].tokens for place in wave.prompts]
        return session.bench.wave(session.server, requests, wave.tokens, tokenizer=session.model)

    shortest = min(wave.tokens for wave in work)
    for wave in work:
        if wave.repeat == work[0].repeat and wave.tokens == shortest:
            decode(wave)
            session.progress.warmed_up(len(wave.prompts))
    timed: list[tuple[Wave, Timing]] = []
    for wave in work:
        timed.append((wave, decode(wave)))
        rate = f"{timed[-1][1].tokens_per_second:.1f} tok/s"
        description = (
            f"decode {len(timed)} of {len(work)}, {len(wave.prompts)} × {wave.tokens} tokens"
        )
        session.progress.decoded(
            f"{description}: {rate}", tokens=wave.tokens, parallel=len(wave.prompts)
        )
    return timed
