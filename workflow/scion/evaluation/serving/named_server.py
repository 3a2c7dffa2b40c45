"""Whether a server that was named, not started, serves the release: its scheme and a fingerprint.

The fingerprint is a few greedy replies with the log-probability of each token. The release itself
reads the same tokens in torch, once as its format says (W4A4) and once with bf16 activations, as
GPUs without FP4 units compute. How far these two are apart is how much this model's numbers depend
on arithmetic, and so the measure of what a server of the same weights may be off by. Other weights
are off by more, those of a sibling fine-tune too; the same weights in bf16 need not be, so the
scheme is compared where it can be seen: if the server's model is a folder of this machine.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scion.checkpoint.shards import CONFIG, Checkpoint, read_object
from scion.common.errors import ScionError
from scion.engines.server import Server

if TYPE_CHECKING:
    from torch import Tensor

_QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Write a Python function that reverses a string.",
    "Which is larger, 58 or 73? Explain in a sentence.",
    "Tell me a short story about a gardener and a tree.",
    "List three fruits and a colour for each.",
    "Translate to German: the house is old and the garden is large.",
)
_TOKENS = 48
# In distances between the two ways to compute. Servers of the release were seen at 1.0 and 0.2,
# of another fine-tune of the same base at 2.8 and 2.4 (embedded pair, NVFP4 in emulation).
_MOST_APART, _MOST_BEHIND = 2.0, 1.0
# Nats a token; the least that the distance counts as, where nothing is rounded.
_LEAST_DISTANCE = 0.02


@dataclass(frozen=True)
class GreedyReply:
    """What a server answered.

    Attributes:
        prompt: Token ids, as the server rendered them.
        tokens: Token ids of the reply.
        logprobs: The log-probability of each.
    """

    prompt: list[int]
    tokens: list[int]
    logprobs: list[float]


def check_named_server(server: Server, release: Path) -> None:
    """Compare a named server with the release whose numbers it shall give.

    Args:
        server: The server.
        release: The checkpoint's folder.

    Raises:
        ScionError: It serves another scheme, or other weights, or can't be asked.
    """
    _check_scheme(server, release)
    print("server: comparing its model with the release, on the CPU", file=sys.stderr, flush=True)
    replies = [_reply(server, question) for question in _QUESTIONS]
    apart, behind, distance = _differences(release, replies)
    if apart > _MOST_APART * distance or behind > _MOST_BEHIND * distance:
        raise server.failure(
            "the named server serves other weights than the release",
            where=f"serving.server_url: {server.url}, model {server.model}",
            expected=f"log-probabilities of its greedy replies within {_MOST_APART * distance:.3f} "
            f"nats a token of those of {release}, and tokens no further than "
            f"{_MOST_BEHIND * distance:.3f} from its own best",
            found=f"{apart:.3f} and {behind:.3f}",
        )


def _check_scheme(server: Server, release: Path) -> None:
    key = "quantization_config"
    offered: Any = json.loads(server.read("/v1/models"))["data"]
    root = next(Path(str(model.get("root"))) for model in offered if model["id"] == server.model)
    # Elsewhere than on this machine there is no such folder, and nothing to see.
    if not (root / CONFIG).is_file():
        return
    expected, found = (read_object(folder / CONFIG).get(key) for folder in (release, root))
    if expected != found:
        raise server.failure(
            "the named server's model is quantized otherwise than the release",
            where=root / CONFIG,
            expected=f"{key} as in {release / CONFIG}",
            found="none" if found is None else json.dumps(found)[:300],
        )


def _reply(server: Server, question: str) -> GreedyReply:
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": _TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": True,
        "return_token_ids": True,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    answer = server.ask("/v1/chat/completions", body)
    try:
        choice = answer["choices"][0]
        logprobs = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
        reply = GreedyReply(list(answer["prompt_token_ids"]), list(choice["token_ids"]), logprobs)
        whole = len(reply.tokens) == len(reply.logprobs) > 0
    except (LookupError, TypeError, ValueError) as error:
        raise _unusable(server, f"{type(error).__name__}: {error}") from error
    if not whole:
        raise _unusable(server, f"{len(reply.tokens)} tokens, {len(reply.logprobs)} numbers")
    return reply


def _unusable(server: Server, found: str) -> ScionError:
    return server.failure(
        "the named server can't be compared with the release",
        where=f"{server.url}/v1/chat/completions",
        expected="prompt_token_ids, token_ids and the log-probability of each token, as vLLM "
        "gives them",
        found=found,
    )


def _differences(release: Path, replies: Sequence[GreedyReply]) -> tuple[float, float, float]:
    """How far a server is from the release, all in nats a token.

    Returns:
        The mean difference of log-probabilities, and how far its tokens stand behind the best ones,
        each of the way to compute that is nearer; and the distance of the two ways.
    """
    import torch

    served = torch.tensor([value for reply in replies for value in reply.logprobs])
    ways = [_read(release, replies, activations) for activations in ("nvfp4", "bf16")]
    apart = min(float((likely - served).abs().mean()) for likely, _ in ways)
    behind = min(float(distances.mean()) for _, distances in ways)
    distance = float((ways[0][0] - ways[1][0]).abs().mean())
    return apart, behind, max(distance, _LEAST_DISTANCE)


def _read(
    release: Path, replies: Sequence[GreedyReply], activations: Literal["nvfp4", "bf16"]
) -> "tuple[Tensor, Tensor]":
    """The log-probability of each token by the release, and how far it is behind the best one."""
    # Importing torch and transformers takes seconds, which servers of our own need not wait.
    import torch

    from scion.evaluation.offline.target import Target
    from scion.evaluation.offline.weights import Weights

    checkpoint, device = Checkpoint.open(release), torch.device("cpu")
    target = Target(Weights(checkpoint, device=device, activations=activations))
    likely: list[Tensor] = []
    best: list[Tensor] = []
    for reply in replies:
        states = target.hidden(reply.prompt + reply.tokens)[len(reply.prompt) - 1 : -1]
        every = torch.log_softmax(target.head(states).float(), dim=-1)
        likely.append(every.gather(1, torch.tensor(reply.tokens)[:, None])[:, 0])
        best.append(every.max(dim=-1).values)
    chosen = torch.cat(likely).detach()
    return chosen, torch.cat(best).detach() - chosen
