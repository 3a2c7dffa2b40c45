"""Rules over what runs in whoever loads a checkpoint: Python files, pickles, and words for them."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

from scion.checkpoint.release_files import NAMING_CODE, code_references
from scion.common.errors import ScionError
from scion.lint.rule import Finding, Severity, rule, workflow_until
from scion.lint.subject import Subject

_CODE = frozenset({".py", ".pyc", ".so", ".sh"})
# What torch.load, joblib and numpy unpickle.
_PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})


def _ending(subject: Subject, endings: frozenset[str]) -> list[str]:
    names = sorted(subject.source.files)
    return [name for name in names if PurePosixPath(name).suffix.lower() in endings]


@rule(
    "F131",
    "code-file",
    Severity.NOTE,
    "a file of code lies beside the weights",
    repair="remove it, or link to a repository of code instead; the workflow leaves it behind",
)
def code_file(subject: Subject) -> Iterable[Finding]:
    """Such a file is imported where a config names it and code is allowed.

    vLLM, SGLang and transformers do so under `--trust-remote-code` or `trust_remote_code=True`.
    Nothing of it is needed for a class that they build themselves.
    """
    if names := _ending(subject, _CODE):
        yield Finding(names[0], None, "data only", "code", (), len(names))


@rule(
    "F132",
    "pickle-file",
    Severity.WARNING,
    "a pickle lies beside the weights",
    repair="remove it: the weights are in safetensors, and a state of training serves nobody; the "
    "workflow leaves it behind",
)
def pickle_file(subject: Subject) -> Iterable[Finding]:
    """To load a pickle is to run what it says.

    Weights that are there twice, as `pytorch_model.bin`, cost room and may differ from those that
    are served; `training_args.bin` and `optimizer.pt` are left-overs of a trainer, and tell paths
    and settings of its machine.
    """
    if names := _ending(subject, _PICKLES):
        found = f"{subject.source.files[names[0]]} bytes that torch.load would unpickle"
        yield Finding(names[0], None, "data only", found, (), len(names))


@rule(
    "F133",
    "code-reference",
    Severity.WARNING,
    "a config names code to load",
    repair="remove the key; every class that lint knows is one of the engines' own",
    command=workflow_until("graft_mtp"),
    stage="graft_mtp",
)
def code_reference(subject: Subject) -> Iterable[Finding]:
    """Where code is allowed, `auto_map` goes before the class that an engine has itself.

    What it names is a file of this repository, or, with `--` in it, of another one, whose owner can
    change it at any time. Served with `--trust-remote-code` the model is then what that file says.
    """
    for name in NAMING_CODE:
        content: Mapping[str, Any] | None = None
        # What is no JSON is for the rules of what such a file says.
        with suppress(ScionError):
            content = subject.json(name)
        for key in code_references(content or {}):
            yield Finding(name, key, "no such key", "code to be loaded with the model")


RULES = (code_file, pickle_file, code_reference)
