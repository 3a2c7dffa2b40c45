"""Rules over config.json: whether it says what the model's class needs."""

import re
from collections.abc import Iterable

from scion.architectures.families import in_head
from scion.checkpoint.shards import CONFIG
from scion.common.errors import ScionError
from scion.lint.rule import Finding, Severity, rule
from scion.lint.subject import Subject

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


RULES = (config_unusable,)
