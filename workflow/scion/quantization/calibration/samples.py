"""Calibration samples: rows of local JSONL files and of hub data sets, as token ids.

The sets of the configuration are taken in order. A sample is cut where it is longer than its set's
budget or than the model's context; that is no error, and `summary` counts it. A set with fewer rows
than asked for is one.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from scion.architectures.inventory import inventory, language_keys
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.checkpoint.shards import CONFIG, Checkpoint
from scion.lint.chat_prompts import ChatPrompt, prompt_ids
from scion.quantization.calibration.hub_rows import HubData
from scion.quantization.calibration.rows import Rows, read_lines, unusable
from scion.quantization.config import Calibration, CalibrationSet

_TAKEN = "messages that the chat template takes, or text"
_UNUSABLE = (ValueError, TypeError, LookupError, AttributeError)


@dataclass(frozen=True)
class Sample:
    """One calibration sample.

    Attributes:
        ids: Token ids, int64 [1, tokens].
        place: Which of the configured sets it came from, from 0.
        origin: That set.
        full_tokens: Its length before it was cut.
    """

    ids: torch.Tensor
    place: int
    origin: CalibrationSet
    full_tokens: int

    @property
    def tokens(self) -> int:
        """Its length."""
        return self.ids.numel()

    @property
    def is_cut(self) -> bool:
        """Whether its end was left out."""
        return self.tokens < self.full_tokens

    @property
    def is_cut_to_context(self) -> bool:
        """Whether the model's context cut it, short of the set's budget."""
        return self.is_cut and self.tokens < self.origin.max_tokens


def read_samples(
    checkpoint: Checkpoint, calibration: Calibration, hub: HubData | None = None
) -> list[Sample]:
    """The calibration samples, tokenized as the checkpoint does.

    Args:
        checkpoint: The model, with tokenizer and chat template beside its shards.
        calibration: The sets.
        hub: Reads those of the hub; None: one without a lock.

    Raises:
        ScionError: As `read_rows` and `tokenize` do.
    """
    # Before any weight is read: a bad data set costs a second, not an hour.
    rows = read_rows(calibration, hub)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    where = checkpoint.folder / CONFIG
    family = inventory(checkpoint.config, where=where).family
    context = language_keys(checkpoint.config, family, where=where).size("max_position_embeddings")
    return list(tokenize(rows, tokenizer, calibration, context=context))


def read_rows(calibration: Calibration, hub: HubData | None = None) -> list[Rows]:
    """The first `samples` rows of each calibration set.

    Args:
        calibration: The sets.
        hub: Reads those of the hub; None: one without a lock.

    Raises:
        ScionError: A set is missing, unreadable, empty, has fewer rows than asked for, or is not
            what was locked.
    """
    hub = hub or HubData()
    return [_rows_of(each, hub) for each in calibration.sets]


def _rows_of(wanted: CalibrationSet, hub: HubData) -> Rows:
    location = parse_location(wanted.dataset)
    if isinstance(location, HubRepository):
        rows = hub.rows(location, wanted)
    else:
        rows = read_lines(Path(wanted.dataset), wanted.samples)
    if len(rows) < wanted.samples:
        raise unusable(wanted.dataset, f"{wanted.samples} rows", f"{len(rows)} rows")
    return rows


def tokenize(
    rows: Sequence[Rows], tokenizer: Any, calibration: Calibration, *, context: int
) -> Iterator[Sample]:
    """The samples of all sets, in order.

    A row with `messages` (and `tools`) goes through the chat template, one with `text` is taken as
    it is.

    Args:
        rows: What `read_rows` found, by set.
        tokenizer: The model's, with its chat template.
        calibration: The sets, with the token budget of each.
        context: `max_position_embeddings` of the model; nothing longer is sampled.

    Raises:
        ScionError: A row has neither column, or gives no token.
    """
    for place, (origin, found) in enumerate(zip(calibration.sets, rows, strict=True)):
        for ids in _checked_ids(found, tokenizer, where=origin.dataset):
            kept = torch.tensor([ids[: min(origin.max_tokens, context)]])
            yield Sample(kept, place, origin, full_tokens=len(ids))


def _checked_ids(rows: Rows, tokenizer: Any, *, where: str) -> Iterator[list[int]]:
    """The tokens of each row of a set; chats are rendered ahead of it, some at a time."""
    told = [_prompt(row, where=f"{where}: row {number}") for number, row in enumerate(rows, 1)]
    chats = prompt_ids(tokenizer, [prompt for prompt in told if isinstance(prompt, ChatPrompt)])
    for number, prompt in enumerate(told, 1):
        row = f"{where}: row {number}"
        try:
            ids = next(chats) if isinstance(prompt, ChatPrompt) else tokenizer(prompt)["input_ids"]
        except _UNUSABLE as error:
            raise unusable(row, _TAKEN, f"{type(error).__name__}: {error}") from error
        if not ids:
            raise unusable(row, "at least one token", "none")
        yield ids


def _prompt(row: dict[str, Any], *, where: str) -> ChatPrompt | str:
    if not row.get("messages") and not row.get("text"):
        raise unusable(where, "a column `messages` or `text`", sorted(row))
    if not row.get("messages"):
        return row["text"]
    try:
        messages = [_with_parsed_arguments(message) for message in row["messages"]]
        return ChatPrompt(messages, row.get("tools") or None)
    except _UNUSABLE as error:
        raise unusable(where, _TAKEN, f"{type(error).__name__}: {error}") from error


def _with_parsed_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose tool calls carry their arguments as templates want them, not as JSON text.

    The chat API and most data sets carry text; servers parse it before they render, too.
    """
    calls: list[dict[str, Any]] = []
    for call in message.get("tool_calls") or []:
        function = call["function"]
        if isinstance(function["arguments"], str):
            function = {**function, "arguments": json.loads(function["arguments"])}
        calls.append({**call, "function": function})
    return {**message, "tool_calls": calls} if calls else message


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """What was calibrated with, as facts record it: counts in all, and for each set in order.

    A set's entry holds its configuration too. `cut_samples` are those that lost their end;
    `cut_to_context` of them would have fitted more of their set's budget, but not the model.
    """
    places = sorted({sample.place for sample in samples})
    by_set = [[sample for sample in samples if sample.place == place] for place in places]
    sets = [{**part[0].origin.model_dump(mode="json"), **_counts(part)} for part in by_set]
    return {**_counts(samples), "sets": sets}


def _counts(samples: Sequence[Sample]) -> dict[str, int]:
    return {
        "samples": len(samples),
        "tokens": sum(sample.tokens for sample in samples),
        "cut_samples": sum(sample.is_cut for sample in samples),
        "cut_to_context": sum(sample.is_cut_to_context for sample in samples),
    }
