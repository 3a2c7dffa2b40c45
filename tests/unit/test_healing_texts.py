"""The texts that an MTP head learns from: which tokens count, and how they are put into batches."""

import json
from pathlib import Path

import pytest
import torch

from conversion import Pico
from scion.common.errors import ScionError
from scion.evaluation.chats import read_chats
from scion.evaluation.offline.prompts import load_tokenizer
from scion.healing.batches import batches, collate
from scion.healing.replies import given_texts, require_unmeasured
from scion.healing.texts import LearnedText, read_texts, write_texts
from training.data import assistant_mask

CPU = torch.device("cpu")


def text(length: int, *spans: tuple[int, int], name: str = "text") -> LearnedText:
    return LearnedText(name, "given", tuple(range(length)), spans)


@pytest.mark.parametrize(
    ("spans", "chains"),
    [
        # Five tokens of a reply behind four of a prompt: the first needs no draft.
        (((4, 9),), [(3, 3), (4, 3), (5, 2), (6, 1)]),
        # A draft never reaches into what the next user says.
        (((2, 4), (6, 9)), [(1, 1), (5, 2), (6, 1)]),
        (((4, 5),), []),
        (((0, 3),), [(0, 1)]),
    ],
)
def test_a_step_begins_after_each_token_of_a_reply_but_the_last(
    spans: tuple[tuple[int, int], ...], chains: list[tuple[int, int]]
) -> None:
    assert text(9, *spans).chains(3) == chains


def test_batches_hold_texts_of_like_length_once_each() -> None:
    texts = [text(length) for length in (5, 90, 7, 6, 300, 8)]
    groups = batches(texts, range(6), 20)
    assert groups == [(0, 3), (2, 5), (1,), (4,)]
    assert batches(texts, [], 20) == []


def test_a_batch_is_padded_on_the_right() -> None:
    texts = [text(5, (1, 5)), text(3, (1, 3))]
    batch = collate(texts, (0, 1), steps=3, device=CPU)
    assert batch.ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0]]
    assert (batch.rows.tolist(), batch.steps.tolist()) == (
        [[0, 1, 2], [0, 0, 0]],
        [[3, 2, 1], [1, 0, 0]],
    )


def test_texts_come_back_from_their_file(tmp_path: Path) -> None:
    texts = [text(5, (1, 5), name="ü"), text(3)]
    write_texts(tmp_path / "texts.jsonl", texts)
    assert read_texts(tmp_path / "texts.jsonl") == texts
    (tmp_path / "texts.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(ScionError) as caught:
        read_texts(tmp_path / "texts.jsonl")
    assert "line 1" in caught.value.where


def test_what_counts_of_a_dialogue_is_what_the_assistant_said(pico: Pico) -> None:
    """As the generator of the embedded pair's data marks it, which knows nothing of this."""
    tokenizer = load_tokenizer(pico.base)
    chats = read_chats(pico.calibration, limit=24)
    header = tokenizer("assistant\n", add_special_tokens=False)["input_ids"]
    empty = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    found = given_texts(tokenizer, chats)
    assert [each.name for each in found] == [chat.name for chat in chats]
    counted = 0
    for each in found:
        marked = assistant_mask(list(each.ids), header, empty)
        mine = [False] * len(each.ids)
        for begin, end in each.spans:
            assert marked[begin:end] == [True] * (end - begin)
            mine[begin:end] = [True] * (end - begin)
        # The last turn always counts; earlier ones unless the template takes thoughts out of them.
        assert mine[max(place for place, said in enumerate(marked) if said)]
        counted += sum(mine) == sum(marked)
    assert counted >= 12


def test_prompts_that_are_measured_with_are_refused(pico: Pico, tmp_path: Path) -> None:
    measured = pico.folder / "prompts.jsonl"
    others = read_chats(measured)
    own = read_chats(pico.folder / "healing.jsonl")
    require_unmeasured(own, {measured: others})
    copied = json.loads(measured.read_text().splitlines()[2])
    # Under another name, with other spaces, and behind a system prompt.
    said = copied["messages"][0]["content"].upper().replace(" ", "  ")
    messages = [{"role": "system", "content": "Hm."}, {"role": "user", "content": said}]
    (tmp_path / "more.jsonl").write_text(json.dumps({"name": "mine", "messages": messages}))
    with pytest.raises(ScionError, match="measured with") as caught:
        require_unmeasured([*own, *read_chats(tmp_path / "more.jsonl")], {measured: others})
    assert (
        f"1 of {len(own) + 1}, such as mine, which is {copied['name']} there" in caught.value.found
    )
    # A dialogue that goes on from there is no other.
    more = [*messages, {"role": "assistant", "content": "!"}, {"role": "user", "content": "And?"}]
    (tmp_path / "more.jsonl").write_text(json.dumps({"name": "mine", "messages": more}))
    with pytest.raises(ScionError, match="measured with"):
        require_unmeasured(read_chats(tmp_path / "more.jsonl"), {measured: others})
