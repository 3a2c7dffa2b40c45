"""What the files of a tokenizer say: ids, special tokens, chat templates, where generation ends."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scion.architectures.families import in_head
from scion.checkpoint.release_files import TOKENIZER_CONFIG
from scion.checkpoint.shards import CONFIG, parse_object
from scion.common.bounded_json import parse_json
from scion.common.errors import ScionError
from scion.lint.subject import Subject

TOKENIZER = "tokenizer.json"
GENERATION_CONFIG = "generation_config.json"
TEMPLATE = "chat_template.jinja"
_SPECIAL_TOKENS_MAP = "special_tokens_map.json"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")
_MERGES_KEY = re.compile(rb'(?<!\\)"merges"\s*+:\s*+(?=\[)')
_TEXT = rb'[^][{}"]++|"(?:[^"\\]++|\\.)*+"'
# A list of texts or of lists of texts; possessive, so that it is read in one go.
_LISTS = re.compile(rb"\[(?:%b|\[(?:%b)*+\])*+\]" % (_TEXT, _TEXT))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of tokenizer.json, as far as a rule asks about them.

    Attributes:
        size: The number of ids that have a token.
        highest: The token of the highest id, and that id; None where there is no token.
        ids: Id by text, of the added tokens and of those that other files name.
        texts: Text by id, of the ids that other files or added tokens name.
        clashes: Ids that two tokens claim, with both.
    """

    size: int
    highest: tuple[str, int] | None
    ids: Mapping[str, int]
    texts: Mapping[int, str]
    clashes: Mapping[int, tuple[str, str]]


@dataclass(frozen=True)
class TokenizerFiles:
    """The files, each read once.

    Attributes:
        vocabulary: None where tokenizer.json is absent, costly to read, or unusable.
        config: tokenizer_config.json; empty where it is absent or unusable.
        generation: generation_config.json; None where it is absent or unusable.
        special: Text of each special token by its role.
        declared: Text by id of the tokens that tokenizer_config.json lists.
        problems: What is wrong with a file that can't be used, by its name.
    """

    vocabulary: Vocabulary | None
    config: Mapping[str, Any]
    generation: Mapping[str, Any] | None
    special: Mapping[str, str]
    declared: Mapping[int, str]
    problems: Mapping[str, str]

    def id_of(self, text: str) -> int | None:
        """The id of an added or special token."""
        ids = {text: number for number, text in self.declared.items()}
        if self.vocabulary is not None:
            ids |= self.vocabulary.ids
        return ids.get(text)

    @property
    def added(self) -> set[str]:
        """The texts of all tokens that were added to the vocabulary."""
        return set(self.declared.values()) | set(self.vocabulary.ids if self.vocabulary else ())


# The rules of a run follow one another on one checkpoint.
@lru_cache(maxsize=1)
def tokenizer_files(subject: Subject) -> TokenizerFiles:
    """Read what there is."""
    problems: dict[str, str] = {}
    config = _object(subject, TOKENIZER_CONFIG, problems) or {}
    # https://github.com/huggingface/transformers/blob/v5.12.0/src/transformers/tokenization_utils_base.py
    # falls back on this file, which releases before 2024 have.
    special = _special({**(_object(subject, _SPECIAL_TOKENS_MAP, problems) or {}), **config})
    declared = _declared(config)
    texts = {*special.values(), *declared.values()}
    return TokenizerFiles(
        vocabulary=_vocabulary(subject, texts, set(declared), problems),
        config=config,
        generation=_object(subject, GENERATION_CONFIG, problems),
        special=special,
        declared=declared,
        problems=problems,
    )


def _object(subject: Subject, name: str, problems: dict[str, str]) -> dict[str, Any] | None:
    raw = subject.read(name)
    if raw is None:
        return None
    try:
        return parse_object(raw, where=name)
    except ScionError as error:
        problems[name] = error.found
        return None


def _special(config: Mapping[str, Any]) -> dict[str, str]:
    """Each role's text; it stands as such, or in an object beside how it is matched."""
    texts: dict[str, str] = {}
    for role in _SPECIAL_TOKENS:
        token = config.get(role)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            texts[role] = text
    return texts


def _declared(config: Mapping[str, Any]) -> dict[int, str]:
    decoder = config.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return {}
    return {
        int(number): entry["content"]
        for number, entry in decoder.items()
        if number.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str)
    }


def _vocabulary(
    subject: Subject, tokens: set[str], numbers: set[int], problems: dict[str, str]
) -> Vocabulary | None:
    raw = subject.read(TOKENIZER)
    if raw is None:
        return None
    try:
        raw = _without_merges(raw)
        content = parse_json(raw)
        added = dict(_added(content.get("added_tokens") or ()))
        words = dict(_words(content["model"]["vocab"]))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        problems[TOKENIZER] = f"{type(error).__name__}: {error}"[:200]
        return None
    return _summary(words, added, tokens, numbers | set(added.values()))


def _without_merges(raw: bytes) -> bytes:
    """The text without the list of merges, which no rule asks about.

    Qwen3.5's tokenizer.json has 20 MB: a quarter million tokens and as many pairs, each of them a
    list of two texts. Parsed whole it takes 140 MB of memory, without the merges 50 MB, in the same
    time. A vocabulary can hold the word too, but gives it a number. What follows is looked at once:
    in a hostile file it may look like this everywhere.
    """
    key = _MERGES_KEY.search(raw)
    merges = _LISTS.match(raw, key.end()) if key else None
    return raw if merges is None else raw[: merges.start()] + b"[]" + raw[merges.end() :]


def _added(entries: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    for entry in entries:
        yield str(entry["content"]), int(entry["id"])


def _words(vocab: Any) -> Iterator[tuple[str, int]]:
    """The model's own tokens: an object of ids, or for Unigram a list in their order."""
    if isinstance(vocab, dict):
        return ((text, int(number)) for text, number in vocab.items())
    return ((str(text), number) for number, (text, _) in enumerate(vocab))


def _summary(
    words: Mapping[str, int], added: Mapping[str, int], asked: set[str], numbers: set[int]
) -> Vocabulary:
    texts: dict[int, str] = {}
    clashes: dict[int, tuple[str, str]] = {}
    for tokens in (added, words):
        for text, number in tokens.items():
            if number in numbers and texts.setdefault(number, text) != text:
                clashes[number] = (texts[number], text)
    highest = max(
        (max(tokens.items(), key=lambda token: token[1]) for tokens in (words, added) if tokens),
        key=lambda token: token[1],
        default=None,
    )
    ids = {text: words[text] for text in asked if text in words} | dict(added)
    return Vocabulary(len({*words.values(), *added.values()}), highest, ids, texts, clashes)


def embedding_rows(subject: Subject) -> tuple[str, int] | None:
    """The rows of the embedding, and what says so; None where nothing does."""
    for name, tensor in subject.tensors.items():
        if name.endswith("embed_tokens.weight") and not in_head(name) and tensor.shape:
            return name, tensor.shape[0]
    size = subject.text_config.get("vocab_size")
    return ("vocab_size", size) if type(size) is int else None


def end_tokens(subject: Subject) -> dict[str, list[int]]:
    """The ids at which generation ends, by the file that says so; only files that name one.

    vLLM stops at those of the tokenizer and of generation_config.json, or of config.json where that
    is missing; SGLang at those of all three; transformers at those of generation_config.json.
    """
    files = tokenizer_files(subject)
    ends: dict[str, list[int]] = {}
    for file, config in ((GENERATION_CONFIG, files.generation or {}), (CONFIG, subject.config)):
        nested = subject.text_config if file == CONFIG else config
        identifiers = config.get("eos_token_id", nested.get("eos_token_id"))
        numbers = identifiers if isinstance(identifiers, list) else [identifiers]
        if valid := [number for number in numbers if type(number) is int]:
            ends[file] = valid
    text = files.special.get("eos_token")
    number = files.id_of(text) if text is not None else None
    if number is not None:
        ends[TOKENIZER_CONFIG] = [number]
    return ends
