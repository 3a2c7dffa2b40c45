"""Timed waves of requests by vLLM's own benchmark, `vllm bench serve`.

A wave is so many requests that are sent together, each answered greedily with exactly so many
tokens, the model's own end ignored. A wave with a failed request, or an answer of another length,
is an error: it is never timed.
"""

import contextlib
import json
import os
import select
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scion.common.errors import ScionError
from scion.engines.config import Serving
from scion.engines.processes import Process, ProcessRequest
from scion.engines.server import Server, log_end
from scion.engines.vllm import bench_driver
from scion.engines.vllm.command import variables
from scion.engines.vllm.server import environment, forks

_DRIVER = Path(bench_driver.__file__)
# Longest wait for a wave: a long decode on slow cores, and vLLM's import before the first one.
_WAVE_SECONDS = 900.0
_OPTIONS = (
    *("--backend", "openai", "--endpoint", "/v1/completions"),
    # The driver hands the requests over; a name must be given.
    *("--dataset-name", "custom"),
    *("--ignore-eos", "--temperature", "0"),
    *("--percentile-metrics", "ttft,tpot,itl", "--save-detailed", "--disable-tqdm"),
    *("--ready-check-timeout-sec", "0"),
)


@dataclass(frozen=True)
class Timing:
    """What one wave took.

    Attributes:
        tokens_per_second: Generated tokens of all requests by the wall time from the first request
            sent to the last token received, prefill included.
        ttft_ms: Time from a request to its first token, mean of the requests.
        itl_ms: Time between two tokens of an answer, mean over the answer and over the requests.
            vLLM calls it TPOT; its own ITL is between two streamed pieces, and with drafts a piece
            holds several tokens.
    """

    tokens_per_second: float
    ttft_ms: float
    itl_ms: float


class Benchmark:
    """vLLM's benchmark as a child process that is asked for one wave after the other."""

    def __init__(self, child: Process, asked: IO[str], answers: IO[str], log: Path) -> None:
        self._child, self._asked, self._answers = child, asked, answers
        self._log = log

    def wave(
        self,
        server: Server,
        prompts: Sequence[list[int]],
        tokens: int,
        *,
        tokenizer: Path,
    ) -> Timing:
        """Send all prompts at the same time and time the answers.

        Args:
            server: The server.
            prompts: Token ids of each.
            tokens: Length of each answer.
            tokenizer: Folder of the model.

        Raises:
            ScionError: A request failed, an answer has another length, or the benchmark ended.
        """
        options = (
            *_OPTIONS,
            *("--base-url", server.url, "--tokenizer", str(tokenizer)),
            *("--model", server.model, "--served-model-name", server.model),
            *("--num-prompts", str(len(prompts)), "--max-concurrency", str(len(prompts))),
            # It would not look at the answers of warm-ups: they are waves of their own.
            *("--num-warmups", "0"),
        )
        result = self._run({"options": options, "prompts": prompts, "tokens": tokens})
        if fault := _fault(result, len(prompts), tokens):
            raise server.failure(
                "a timed decode failed",
                where=f"{server.url}/v1/completions, {len(prompts)} at the same time",
                expected=f"{len(prompts)} answers of {tokens} tokens, no failed request",
                found=fault,
            )
        return _timing(result, tokens)

    def _run(self, wave: dict[str, Any]) -> dict[str, Any]:
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(wave), file=self._asked, flush=True)
            if not select.select([self._answers], [], [], _WAVE_SECONDS)[0]:
                raise self._failure(f"no answer in {_WAVE_SECONDS:.0f} s")
            line = self._answers.readline()
        if not line:
            raise self._failure(f"it ended with exit code {self._child.wait()}")
        return json.loads(line)

    def _failure(self, found: str) -> ScionError:
        return ScionError(
            "vLLM's benchmark does not answer",
            where=self._log,
            expected="the result of `vllm bench serve`",
            found=f"{found}{log_end(self._log)}",
            hint=f"read {self._log}; does this vLLM have vllm.benchmarks.serve?",
        )


@contextlib.contextmanager
def benchmark(
    *, python: Path, serving: Serving, inherited: Mapping[str, str], log: Path
) -> Generator[Benchmark]:
    """Keep vLLM's benchmark running while the block lasts.

    Args:
        python: The serving environment's interpreter.
        serving: The environment's settings.
        inherited: Environment variables of the caller.
        log: Written anew with all that the benchmark prints.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    socket = forks(python, serving, log.with_suffix(".imports.log"))
    request = ProcessRequest(
        # -P: the folder of the driver holds modules of other names, such as vllm.
        (str(python), "-P", str(_DRIVER)),
        _direct(environment(inherited) | variables(serving)),
    )
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        (theirs, ours), (answers, answered) = os.pipe(), os.pipe()
        asked = stack.enter_context(os.fdopen(ours, "w"))
        result = stack.enter_context(os.fdopen(answers))
        try:
            child = Process(socket, request, theirs, answered, output.fileno())
        finally:
            os.close(theirs)
            os.close(answered)
        stack.callback(child.stop)
        yield Benchmark(child, asked, result, log)


def _direct(variables: dict[str, str]) -> dict[str, str]:
    """Without proxies and keys: the server is asked directly, as `Server.ask` does."""
    return {
        name: value
        for name, value in variables.items()
        if not name.lower().endswith("_proxy") and name != "OPENAI_API_KEY"
    }


def _fault(result: dict[str, Any], requests: int, tokens: int) -> str | None:
    """What is wrong with a wave, or None."""
    if "error" in result:
        return result["error"]
    errors = [text.strip().splitlines()[-1] for text in result["errors"] if text.strip()]
    if result["failed"] or result["completed"] != requests or errors:
        reason = f": {errors[0]}" if errors else ""
        return f"{result['completed']} of {requests} requests answered{reason}"
    if result["output_lens"] != [tokens] * requests:
        return f"answers of {', '.join(map(str, result['output_lens']))} tokens"
    return None


def _timing(result: dict[str, Any], tokens: int) -> Timing:
    starts, firsts = result["start_times"], result["ttfts"]
    decodes = [sum(gaps) for gaps in result["itls"]]
    ends = map(sum, zip(starts, firsts, decodes, strict=True))
    wall, count = max(ends) - min(starts), len(starts)
    return Timing(
        tokens_per_second=count * tokens / wall,
        ttft_ms=1000 * sum(firsts) / count,
        itl_ms=1000 * sum(decodes) / count / max(tokens - 1, 1),
    )
