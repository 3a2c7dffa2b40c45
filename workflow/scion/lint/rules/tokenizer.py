"""Rules over a tokenizer's files: whether its ids are those of the model.

`scion.lint.rules.chat` and `roles` have those over chat templates, `scion.lint.rules.generation`
those over generation_config.json.
"""

from collections.abc import Iterable

from scion.engines import facts
from scion.lint.rule import Finding, Severity, rule
from scion.lint.rules import chat, generation, roles
from scion.lint.subject import Subject
from scion.lint.tokenizer_files import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    embedding_rows,
    tokenizer_files,
)

# What transformers and vLLM can make a tokenizer of, beside tokenizer.json.
_OTHER_TOKENIZERS = ("tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
_OTHER_ENDINGS = (".tiktoken", ".model.v3", ".model.v7", ".spm")
# Rows are padded to multiples of 64 up to 512; no known model has a tenth of its rows unused.
_SMALL = 0.9
_CLASSES_OF_5 = ("TokenizersBackend", "SentencePieceBackend")


@rule(
    "T601",
    "tokenizer-missing",
    Severity.ERROR,
    "there is no tokenizer",
    repair="copy tokenizer.json and tokenizer_config.json from the model that this one was made of",
)
def tokenizer_missing(subject: Subject) -> Iterable[Finding]:
    """Servers don't start without one, unless they are given another place to read it from.

    Tools that write weights only leave it to the user to copy the tokenizer's files.
    """
    names = subject.source.files
    others = [name for name in names if name in _OTHER_TOKENIZERS or name.endswith(_OTHER_ENDINGS)]
    if TOKENIZER not in names and not others:
        yield Finding(TOKENIZER, None, f"{TOKENIZER}, or vocabulary files", "none")


@rule(
    "T602",
    "tokenizer-unreadable",
    Severity.ERROR,
    "a file of the tokenizer can't be read",
    repair="fetch the file again; a few hundred bytes may be a git-lfs pointer",
)
def tokenizer_unreadable(subject: Subject) -> Iterable[Finding]:
    """The file is not JSON, or lacks what a tokenizer needs. Servers don't start."""
    contents = {
        TOKENIZER: "an object with `added_tokens` and a vocabulary in `model`",
        TOKENIZER_CONFIG: "a JSON object",
    }
    problems = tokenizer_files(subject).problems
    for file, content in contents.items():
        if file in problems:
            yield Finding(file, None, content, problems[file])


@rule(
    "T603",
    "tokenizer-config-missing",
    Severity.WARNING,
    "there is no tokenizer_config.json",
    repair="copy it from the model that this one was made of",
)
def tokenizer_config_missing(subject: Subject) -> Iterable[Finding]:
    """Special tokens, the class of the tokenizer and often the chat template are guessed then.

    transformers takes the class that belongs to the `model_type` of config.json, with that class's
    own `eos_token`: for Qwen `<|endoftext|>`, at which no chat turn ends.
    """
    if TOKENIZER_CONFIG not in subject.source.files:
        yield Finding(TOKENIZER_CONFIG, None, "tokenizer_class and special tokens", "no such file")


@rule(
    "T604",
    "token-beyond-embedding",
    Severity.ERROR,
    "the tokenizer has tokens that the embedding has no row for",
    repair="resize the embedding and lm_head before saving, or take the tokens out again",
    seen=(
        "https://github.com/huggingface/transformers/issues/1848",
        "https://github.com/meta-llama/llama-cookbook/issues/189",
    ),
)
def token_beyond_embedding(subject: Subject) -> Iterable[Finding]:
    """A prompt that holds such a token reads past the end of the embedding.

    On a GPU that is a device-side assertion that ends the server, or whatever lies there in memory;
    on a CPU an index error. Tokens were added without resizing the model, or the tokenizer is that
    of another one.
    """
    files, rows = tokenizer_files(subject), embedding_rows(subject)
    tokens = {text: number for number, text in files.declared.items()}
    if files.vocabulary is not None:
        tokens |= files.vocabulary.ids
        if files.vocabulary.highest is not None:
            text, number = files.vocabulary.highest
            tokens[text] = number
    beyond = sorted(
        ((number, text) for text, number in tokens.items() if rows and number >= rows[1]),
        reverse=True,
    )
    if rows and beyond:
        number, text = beyond[0]
        file = TOKENIZER_CONFIG if files.declared.get(number) == text else TOKENIZER
        expected = f"ids below {rows[1]}, as {rows[0]} has rows"
        yield Finding(file, text, expected, f"id {number}", (), len(beyond))


@rule(
    "T605",
    "tokenizer-too-small",
    Severity.NOTE,
    "the tokenizer has far fewer tokens than the embedding has rows",
    repair="compare the tokenizer with that of the model that this one was made from",
)
def tokenizer_too_small(subject: Subject) -> Iterable[Finding]:
    """Embeddings have some rows more than tokens, for speed. This many may mean another tokenizer.

    Ids without a token can still be drawn; they end up as nothing in the text.
    """
    vocabulary, rows = tokenizer_files(subject).vocabulary, embedding_rows(subject)
    if vocabulary is not None and rows is not None and vocabulary.size < _SMALL * rows[1]:
        expected = f"about {rows[1]} tokens, as {rows[0]} has rows"
        yield Finding(TOKENIZER, None, expected, f"{vocabulary.size} tokens")


@rule(
    "T606",
    "token-clash",
    Severity.WARNING,
    "two tokens claim one id",
    repair="take both files from the same model, or give the added token an id of its own",
)
def token_clash(subject: Subject) -> Iterable[Finding]:
    """Text is encoded as one of them and decoded as the other.

    `added_tokens_decoder` in tokenizer_config.json, `added_tokens` and the vocabulary in
    tokenizer.json each give ids; transformers reads all three and keeps the last that it meets.
    """
    files = tokenizer_files(subject)
    if files.vocabulary is None:
        return
    for number, (first, other) in sorted(files.vocabulary.clashes.items()):
        yield Finding(TOKENIZER, str(number), f"{first!r} alone", f"{other!r} too")
    for number, text in sorted(files.declared.items()):
        known_text = files.vocabulary.texts.get(number, text)
        if known_text != text:
            yield Finding(
                TOKENIZER_CONFIG, str(number), f"{known_text!r}, as in {TOKENIZER}", f"{text!r}"
            )


@rule(
    "T607",
    "special-token-unknown",
    Severity.ERROR,
    "tokenizer_config.json names a special token that the tokenizer does not have",
    repair="name a token of the vocabulary; for Qwen's chats <|im_end|> ends a turn",
)
def special_token_unknown(subject: Subject) -> Iterable[Finding]:
    """It is added as a new token, with the first id that is free.

    So transformers does, and engines that use it. The model has never seen that id: as `eos_token`
    it is never written, so generation does not end; as `bos_token` it begins every prompt, with an
    untrained row of the embedding or none.
    """
    files = tokenizer_files(subject)
    for role in ("bos_token", "eos_token"):
        text = files.special.get(role)
        if text is not None and files.vocabulary is not None and files.id_of(text) is None:
            yield Finding(TOKENIZER_CONFIG, role, f"a token of {TOKENIZER}", repr(text))


@rule(
    "T608",
    "tokenizer-class-of-transformers-5",
    Severity.WARNING,
    "tokenizer_config.json names a class that transformers 4 does not have",
    repair="write the class that the model's own tokenizer_config.json names, such as "
    "PreTrainedTokenizerFast, or install the engine with transformers 5",
    holds_for=f"with transformers 4, which these can be installed with: {facts.TRANSFORMERS_4}",
    seen=("https://github.com/hiyouga/LLaMA-Factory/issues/10310",),
)
def tokenizer_class_of_transformers_5(subject: Subject) -> Iterable[Finding]:
    """It is how transformers 5 saves a tokenizer; an engine on transformers 4 stops at it."""
    name = tokenizer_files(subject).config.get("tokenizer_class")
    engines = facts.TRANSFORMERS_4.among(subject.engines)
    if engines and name in _CLASSES_OF_5:
        expected = "a class that transformers 4 has too"
        yield Finding(TOKENIZER_CONFIG, "tokenizer_class", expected, str(name), engines)


RULES = (
    tokenizer_missing,
    tokenizer_unreadable,
    tokenizer_config_missing,
    token_beyond_embedding,
    tokenizer_too_small,
    token_clash,
    special_token_unknown,
    tokenizer_class_of_transformers_5,
    *chat.RULES,
    *roles.RULES,
    *generation.RULES,
)
