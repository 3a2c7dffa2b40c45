"""Rules over generation_config.json: where generation ends, and how tokens are drawn."""

from collections.abc import Iterable

from scion.checkpoint.shards import CONFIG
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject
from scion.lint.tokenizer_files import (
    GENERATION_CONFIG,
    TOKENIZER_CONFIG,
    embedding_rows,
    end_tokens,
    tokenizer_files,
)

_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": None}


@rule(
    "T621",
    "generation-config-missing",
    Severity.NOTE,
    "there is no generation_config.json",
    repair="take that of the model that this one was made from",
)
def generation_config_missing(subject: Subject) -> Iterable[Finding]:
    """Servers then draw tokens at temperature 1, and stop at fewer tokens.

    By default vLLM and SGLang take temperature, top_p and the like from it where a request names
    none. Without the file, vLLM stops at the `eos_token` of the tokenizer and at `eos_token_id` of
    config.json.
    """
    if GENERATION_CONFIG not in subject.source.files:
        yield Finding(GENERATION_CONFIG, None, "sampling defaults and eos_token_id", "no such file")


@rule(
    "T622",
    "generation-config-unreadable",
    Severity.ERROR,
    "generation_config.json holds no JSON object",
    repair="write it anew, or remove it",
)
def generation_config_unreadable(subject: Subject) -> Iterable[Finding]:
    """Text that is no JSON is taken for a missing file, silently; other JSON stops the engine.

    transformers, through which vLLM reads it, raises an OSError for the first, which vLLM takes to
    mean that there is none, and a TypeError for the second.
    """
    problem = tokenizer_files(subject).problems.get(GENERATION_CONFIG)
    if problem is not None:
        yield Finding(GENERATION_CONFIG, None, "a JSON object", problem)


@rule(
    "T623",
    "no-end-token",
    Severity.ERROR,
    "nothing says at which token generation ends",
    repair="set eos_token_id in generation_config.json, and eos_token in tokenizer_config.json",
)
def no_end_token(subject: Subject) -> Iterable[Finding]:
    """Each answer runs on until its limit of tokens.

    Neither generation_config.json nor config.json has an `eos_token_id`, and the tokenizer has no
    `eos_token`.
    """
    if not end_tokens(subject) and "eos_token" not in tokenizer_files(subject).special:
        expected = f"eos_token_id, there or in {CONFIG}; or eos_token in {TOKENIZER_CONFIG}"
        yield Finding(GENERATION_CONFIG, "eos_token_id", expected, "none of these")


@rule(
    "T624",
    "end-token-unknown",
    Severity.ERROR,
    "generation shall end at an id that the model has no row for",
    repair="give the id of the token that ends an answer: see added_tokens_decoder in "
    "tokenizer_config.json",
)
def end_token_unknown(subject: Subject) -> Iterable[Finding]:
    """The model can't write that token, so generation never ends there.

    It is what copying generation_config.json or config.json from a model with another vocabulary
    does: a server stops only at the other ids, if there are any, and else at the limit of tokens.
    """
    rows = embedding_rows(subject)
    for file, numbers in end_tokens(subject).items():
        strange = [number for number in numbers if rows and not 0 <= number < rows[1]]
        if rows and strange and file != TOKENIZER_CONFIG:
            expected = f"ids from 0 to {rows[1] - 1}, as {rows[0]} has rows"
            yield Finding(file, "eos_token_id", expected, ", ".join(map(str, strange)))


@rule(
    "T625",
    "end-tokens-disagree",
    Severity.WARNING,
    "generation_config.json does not end generation at the tokenizer's eos_token",
    repair="list both ids in eos_token_id of generation_config.json",
    seen=(
        "https://github.com/Blaizzy/mlx-vlm/pull/2112",
        "https://github.com/QwenLM/Qwen3/issues/927",
    ),
)
def end_tokens_disagree(subject: Subject) -> Iterable[Finding]:
    """Answers end in one engine and run on in another.

    vLLM and SGLang stop at the tokenizer's `eos_token` and at `eos_token_id` of
    generation_config.json. `generate` of transformers, and others that read that file alone, stop
    only at the latter; where it has none, they never stop.
    """
    ends = end_tokens(subject)
    ours, stated = ends.get(TOKENIZER_CONFIG), ends.get(GENERATION_CONFIG, [])
    if ours and tokenizer_files(subject).generation is not None and ours[0] not in stated:
        expected = f"{ours[0]}, the id of {tokenizer_files(subject).special['eos_token']!r}"
        found = ", ".join(map(str, stated)) or "no id"
        yield Finding(GENERATION_CONFIG, "eos_token_id", expected, found)


@rule(
    "T626",
    "greedy-ignored",
    Severity.NOTE,
    "generation_config.json has sampling parameters, and do_sample is not true",
    repair="set do_sample to true, or remove the parameters and state temperature 0",
    holds_for="vllm, with --generation-config auto (its default)",
    seen=("https://github.com/huggingface/transformers/issues/33427",),
)
def greedy_ignored(subject: Subject) -> Iterable[Finding]:
    """With this file transformers decodes greedily, and vLLM draws tokens with its parameters.

    vLLM takes temperature, top_p, top_k and min_p from it and does not look at `do_sample`. What
    was evaluated with one is not what is served with the other.
    """
    generation = tokenizer_files(subject).generation or {}
    stated = [
        f"{name} {generation[name]}"
        for name, neutral in _SAMPLING.items()
        if generation.get(name, neutral) not in (neutral, None)
    ]
    # A temperature of 0 is greedy whatever do_sample says.
    if stated and generation.get("do_sample") is not True and generation.get("temperature") != 0:
        found = "false" if "do_sample" in generation else "no such key"
        found += f", beside {', '.join(stated)}"
        yield Finding(GENERATION_CONFIG, "do_sample", "true", found)


RULES = (
    generation_config_missing,
    generation_config_unreadable,
    no_end_token,
    end_token_unknown,
    end_tokens_disagree,
    greedy_ignored,
)
