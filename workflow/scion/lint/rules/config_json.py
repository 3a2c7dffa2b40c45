"""Rules over config.json: whether it says what the model's class needs."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from scion.architectures.families import (
    family_of,
    family_of_class,
    in_head,
    text_only_classes,
)
from scion.checkpoint.release_files import IMAGE_PROCESSOR_FILES
from scion.checkpoint.shards import CONFIG
from scion.common.errors import ScionError
from scion.engines import facts
from scion.lint.naming import names_of
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject

_PROCESSOR = IMAGE_PROCESSOR_FILES[0]
_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\..+")


@rule(
    "C801",
    "config-unusable",
    Severity.ERROR,
    "config.json lacks or contradicts what the tensors' shapes follow from",
    repair="take config.json from the checkpoint's repository at the revision of the shards",
    always=True,
    seen=(
        "https://github.com/peremartra/optipfair/issues/20",
        "https://github.com/vllm-project/vllm/issues/45584",
    ),
)
def config_unusable(subject: Subject) -> Iterable[Finding]:
    """A size is missing, of another type or absurd, or a list does not go with the number it is of.

    `layer_types` has one entry for each of `num_hidden_layers`: tools that prune layers change one
    and not the other, and some count the MTP layer in. transformers and the engines that read the
    file through it refuse it. Names and shapes are not judged then.
    """
    if subject.refusal is not None or CONFIG in subject.unread:
        return
    problem = _layer_types(subject)
    if problem is not None:
        yield problem
    elif (error := subject.config_problem) is not None:
        yield Finding(CONFIG, None, error.expected, error.found, repair=error.hint)


def _layer_types(subject: Subject) -> Finding | None:
    """`layer_types` of another length than `num_hidden_layers`, whatever the architecture."""
    kinds, layers = (subject.text_config.get(key) for key in ("layer_types", "num_hidden_layers"))
    if not isinstance(kinds, list) or type(layers) is not int or len(kinds) == layers:
        return None
    repair = f"leave the entries of the {layers} layers in it"
    if _stored_layers(subject) == len(kinds):
        repair = f"set num_hidden_layers to {len(kinds)}: so many layers are stored"
    elif len(kinds) < layers:
        repair = f"give each of the {layers} layers an entry"
    key = "layer_types" if subject.text_config is subject.config else "text_config.layer_types"
    expected = f"{layers} entries, as num_hidden_layers says"
    return Finding(CONFIG, key, expected, f"{len(kinds)}", repair=repair)


def _stored_layers(subject: Subject) -> int | None:
    """The number of decoder layers among the tensors; None where they can't be read."""
    try:
        names = list(subject.tensors)
    except ScionError:
        return None
    found = (_LAYER.fullmatch(name) for name in names if not in_head(name))
    return len({match[1] for match in found if match})


@rule(
    "C802",
    "rope-theta-missing",
    Severity.ERROR,
    "rope_parameters has no rope_theta",
    repair="take rope_theta from the config.json of the model that this one was made from",
    seen=("https://github.com/NVIDIA/Model-Optimizer/issues/1745",),
)
def rope_theta_missing(subject: Subject) -> Iterable[Finding]:
    """Positions are then turned with a base of 10000, whatever the model was trained with.

    transformers 5 and vLLM fill the gap without a word. Answers are fluent at first and fall apart
    with length.
    """
    if subject.text_config.get("rope_theta") is not None:
        return
    yield from (
        Finding(CONFIG, key, "a number under rope_theta", "no such key")
        for key, rope in _ropes(subject)
        if rope.get("rope_theta") is None
    )


def _ropes(subject: Subject) -> list[tuple[str, Mapping[str, Any]]]:
    """The entries of `rope_parameters`: one, or one for each type of layer."""
    rope = subject.text_config.get("rope_parameters")
    if not isinstance(rope, dict) or not rope:
        return []
    if all(isinstance(value, dict) for value in rope.values()):
        return [(f"rope_parameters.{kind}", value) for kind, value in rope.items()]
    return [("rope_parameters", rope)]


@rule(
    "C803",
    "rope-theta-nested",
    Severity.WARNING,
    "rope_theta stands where transformers 4 does not look for it",
    repair="write rope_theta beside rope_parameters too, or install the engine with transformers 5",
    holds_for=f"with transformers 4, which these can be installed with: {facts.TRANSFORMERS_4}",
    seen=("https://github.com/vllm-project/vllm/issues/42624",),
)
def rope_theta_nested(subject: Subject) -> Iterable[Finding]:
    """Transformers 5 writes it into `rope_parameters` alone; transformers 4 takes 10000 then.

    Classes that transformers 4 does not have are not concerned.
    """
    engines = facts.TRANSFORMERS_4.among(subject.engines)
    text_only = _class_of(subject) in text_only_classes()
    nested = subject.text_config is not subject.config
    if not engines or text_only or nested or subject.config.get("rope_theta") is not None:
        return
    for key, rope in _ropes(subject):
        theta = rope.get("rope_theta")
        if theta not in (None, 10000):
            yield Finding(CONFIG, key, f"rope_theta {theta} beside it", "in it alone", engines)


def _class_of(subject: Subject) -> str | None:
    names = subject.config.get("architectures")
    first = names[0] if isinstance(names, list) and names else None
    return first if isinstance(first, str) else None


@rule(
    "C804",
    "architectures-missing",
    Severity.ERROR,
    "config.json names no class under architectures",
    repair="name the class of the model that this one was made from, in a list",
    seen=("https://github.com/vllm-project/vllm/issues/46497",),
)
def architectures_missing(subject: Subject) -> Iterable[Finding]:
    """Engines choose the model class by it; without it vLLM builds the base class, or stops."""
    if _class_of(subject) is None:
        found = "no such key" if "architectures" not in subject.config else "no name in it"
        family = family_of(subject.config)
        repair = f'write "architectures": ["{family.architecture}"]' if family is not None else ""
        yield Finding(CONFIG, "architectures", "a list of one class", found, repair=repair)


@rule(
    "C805",
    "class-and-model-type",
    Severity.ERROR,
    "architectures and model_type are of two models",
    repair="take both from the config.json of the model that this one was made from",
)
def class_and_model_type(subject: Subject) -> Iterable[Finding]:
    """Transformers reads the configuration by model_type, engines build the class by architectures.

    Both are known, and belong to different families: shapes and keys are then those of one, and the
    code that reads them the other's.
    """
    name = _class_of(subject)
    family, of_class = family_of(subject.config), family_of_class(name) if name else None
    if family is not None and of_class is not None and family.model_type != of_class.model_type:
        expected = f"{family.architecture}, the class of model_type {family.model_type}"
        yield Finding(CONFIG, "architectures", expected, str(name))


@rule(
    "C806",
    "processor-missing",
    Severity.WARNING,
    "the class has a vision tower, and there is no preprocessor_config.json",
    repair="serve with --language-model-only; for pictures, copy preprocessor_config.json from the "
    "model that this one was made from",
    holds_for=str(facts.PROCESSOR_REQUIRED),
    seen=("https://github.com/sgl-project/sglang/issues/22885",),
)
def processor_missing(subject: Subject) -> Iterable[Finding]:
    """SGLang makes the processor of pictures at the start, and stops where its files are missing.

    It goes by the class under `architectures`, so a text-only copy that keeps the multimodal class
    is one of these, with or without `vision_config`. With `--language-model-only`, or
    `language_model_only` in config.json, it makes the tokenizer alone and serves text.
    """
    engines = facts.PROCESSOR_REQUIRED.among(subject.engines)
    name = _class_of(subject)
    family = family_of_class(name) if name else None
    tower = family.nested if family is not None else "vision_config" in subject.config
    if subject.config.get("language_model_only"):
        return
    if engines and tower and subject.source.files.keys().isdisjoint(IMAGE_PROCESSOR_FILES):
        yield Finding(_PROCESSOR, None, "the processor of the class", "no such file", engines)


@rule(
    "C807",
    "tower-without-processor",
    Severity.ERROR,
    "a vision tower is there, and no file that says how pictures go into it",
    repair="copy preprocessor_config.json from the model that this one was made from, or take the "
    "tower out",
    command=workflow_until("extract_text"),
    stage="extract_text",
    holds_for="vllm, sglang",
    seen=("https://github.com/vllm-project/llm-compressor/issues/1305",),
)
def tower_without_processor(subject: Subject) -> Iterable[Finding]:
    """The tower's tensors came along, `preprocessor_config.json` did not.

    Patch size, merging, mean and deviation of the pixels stand in that file alone. vLLM and SGLang
    make the processor as they start, and stop: "Can't load image processor". A copy that is to
    serve text can go without both, and is then served with `--language-model-only`.
    """
    names = names_of(subject)
    count = len(subject.inventory.vision) if subject.inventory else 0
    there = count - len(names.missing_vision) if names else 0
    if there > 0 and subject.source.files.keys().isdisjoint(IMAGE_PROCESSOR_FILES):
        found = f"no such file, and {there} tensors of a vision tower"
        yield Finding(_PROCESSOR, None, "the processor of pictures", found)


RULES = (
    config_unusable,
    rope_theta_missing,
    rope_theta_nested,
    architectures_missing,
    class_and_model_type,
    processor_missing,
    tower_without_processor,
)
