"""What the models can do: loss, MTP agreement, and whether the right calls are made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from dialogues.agent import Conversation
from dialogues.corpus import Renderer
from training.data import IM_END, Batch, Dataset, collate, make_batches
from training.model import MTP_STEPS, MtpLayer

_CALL: Final = re.compile(r"<tool_call>\n<function=(\w+)>\n(.*?)</function>\n</tool_call>", re.S)
_PARAMETER: Final = re.compile(r"<parameter=(\w+)>\n(.*?)\n</parameter>\n", re.S)

Calls = list[tuple[str, dict[str, str]]]


@dataclass(frozen=True)
class Prompt:
    """A prompt and what its greedy continuation must hold.

    Attributes:
        calls: the calls, order-free, arguments as the text between the tags.
        contains: strings that must stand after the reasoning.
    """

    text: str
    calls: Calls
    contains: Sequence[str] = ()

    def passed(self, output: str) -> bool:
        """Judges a finished continuation."""
        answer = output.rpartition("</think>")[2]
        same = sorted(map(str, tool_calls(answer))) == sorted(map(str, self.calls))
        return same and all(part in answer for part in self.contains)


def tool_calls(text: str) -> Calls:
    """Reads the calls out of a turn."""
    return [(m[1], dict(_PARAMETER.findall(m[2]))) for m in _CALL.finditer(text)]


def plain_calls(calls: Sequence[dict[str, Any]]) -> Calls:
    """The same form for calls of the chat API."""
    plain: Calls = []
    for call in calls:
        arguments = call["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        values = {k: v if isinstance(v, str) else _json(v) for k, v in arguments.items()}
        plain.append((call["name"], values))
    return plain


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def task_prompts(path: Path, render: Renderer) -> list[Prompt]:
    """The five agent tasks, from the file that the release pipeline posts to the server."""
    spec = yaml.safe_load(path.read_text())
    prompts: list[Prompt] = []
    for task in spec["tasks"]:
        case = task["cases"][0]
        messages = [
            {"role": "system", "content": spec["system"]},
            {"role": "user", "content": case["user"]},
        ]
        for step in case.get("done", []):
            call = {"type": "function", "function": step["call"]}
            messages += [
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": json.dumps(step["result"], ensure_ascii=False)},
            ]
        tools = [spec["tools"][name] for name in case.get("tools", [])]
        text = render.prompt(messages, tools, task["enable_thinking"])
        picked = [case["picks"]["answer"]] if "picks" in case else []
        contains = [str(fact) for fact in (*case.get("contains", []), *picked)]
        prompts.append(Prompt(text, plain_calls(case.get("tool_calls", [])), contains))
    return prompts


def call_prompts(talks: Sequence[Conversation], render: Renderer) -> list[Prompt]:
    """One prompt for every assistant turn that follows the last question and holds calls."""
    prompts: list[Prompt] = []
    for talk in talks:
        for i, message in enumerate(talk.messages):
            if message["role"] == "assistant" and message.get("tool_calls"):
                text = render.prompt(talk.messages[:i], talk.tools, talk.thinking)
                calls = plain_calls([call["function"] for call in message["tool_calls"]])
                prompts.append(Prompt(text, calls))
    return prompts


@torch.no_grad()
def greedy(
    logits_of: Callable[[Tensor], Tensor],
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    device: torch.device,
    limit: int = 160,
) -> list[str]:
    """Continues all prompts at once, without a cache: slow in theory, simple, exact.

    `logits_of` maps ids [B, T] to logits [B, T, V]. Rows are padded on the right, which a causal
    model does not see.
    """
    rows = [tokenizer.encode(p.text, add_special_tokens=False).ids for p in prompts]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    starts = lengths.tolist()
    ids = torch.zeros(len(rows), max(starts) + limit, dtype=torch.long, device=device)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, device=device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=device)
    every = torch.arange(len(rows), device=device)
    for _ in range(limit):
        logits = logits_of(ids[:, : int(lengths.max())])
        token = logits[every, lengths - 1].argmax(-1)
        ids[every, lengths] = torch.where(done, 0, token)
        lengths += (~done).long()
        done |= token == IM_END
        if bool(done.all()):
            break
    ends = lengths.tolist()
    return [
        tokenizer.decode(ids[i, starts[i] : ends[i]].tolist(), skip_special_tokens=True)
        for i in range(len(rows))
    ]


@torch.no_grad()
def heldout_loss(
    body: Callable[[Tensor], tuple[Tensor, Tensor]],
    data: Dataset,
    *,
    device: torch.device,
    mtp: tuple[MtpLayer, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None = None,
) -> dict[str, Any]:
    """Loss per assistant token, and how often the MTP layer's argmax is the model's own.

    Args:
        body: maps ids to (hidden after the final norm, logits).
        data: held-out conversations.
        device: where it runs.
        mtp: the layer, the embedding, and the head; left out, only the loss is measured.

    Returns:
        `loss`, `perplexity`, `tokens`; with `mtp`, `mtp_agreement` by position (each by itself) and
        `mtp_acceptance` (this and all positions before it), over assistant tokens.
    """
    total, count = 0.0, 0
    agree = torch.zeros(MTP_STEPS, device=device)
    chain = torch.zeros(MTP_STEPS, device=device)
    drafts = 0
    for rows in make_batches(data, batch_tokens=32768, seed=0):
        batch = collate(data, rows, device)
        hidden, logits = body(batch.ids)
        losses, weight = _token_losses(logits, batch)
        total += float((losses * weight).sum())
        count += int(weight.sum())
        if mtp is not None:
            layer, embed, head = mtp
            together = torch.ones(1, dtype=torch.bool, device=device)
            outputs = layer(embed(batch.ids), hidden, steps=MTP_STEPS)
            inside = batch.assistant[:, 1 : 1 + outputs[0].shape[1]]
            for step, output in enumerate(outputs):
                best = logits.argmax(-1)[:, step + 1 : step + 1 + output.shape[1]]
                same = head(output).argmax(-1) == best
                together = together & same
                agree[step] += (same & inside).sum()
                chain[step] += (together & inside).sum()
            drafts += int(inside.sum())
    loss = total / count
    result: dict[str, Any] = {"loss": loss, "perplexity": float(torch.tensor(loss).exp())}
    result["tokens"] = count
    if mtp is not None:
        result["mtp_agreement"] = (agree / drafts).tolist()
        result["mtp_acceptance"] = (chain / drafts).tolist()
    return result


def _token_losses(logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    flat = logits[:, :-1].float().flatten(0, 1)
    losses = functional.cross_entropy(flat, batch.ids[:, 1:].flatten(), reduction="none")
    return losses, batch.assistant[:, 1:].flatten().float()
