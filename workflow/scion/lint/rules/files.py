"""Rules over the weight files: which of them an engine reads, in which order, and which it drops.

`scion.lint.rules.index` has those over what the index says of them, `scion.lint.rules.code` those
over what is no data.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from scion.checkpoint.safetensors_file import Tensor
from scion.checkpoint.shards import INDEX, SINGLE
from scion.common.errors import ScionError
from scion.engines import facts
from scion.lint.rule import WHOLE, Finding, Severity, rule
from scion.lint.rules import code, index
from scion.lint.subject import ADAPTER, ADAPTER_CONFIG, Subject

# https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/model_loader/weight_utils.py
# has `filter_duplicate_safetensors_files` and `_natural_sort_key`, which these rules speak of;
# `_prepare_weights` is in default_loader.py beside it.
_CONSOLIDATED = "consolidated"
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.safetensors")


@rule(
    "F101",
    "missing-shard",
    Severity.ERROR,
    "a shard that the index names is not there",
    repair="fetch the missing file at the same revision, or upload it",
    holds_for="silent in vllm<0.26 for quantized models; elsewhere the server does not start",
    seen=(
        "https://github.com/vllm-project/vllm/issues/34859",
        "https://github.com/sgl-project/sglang/pull/32279",
        "https://github.com/Neph0s/CoSER/issues/3",
    ),
)
def missing_shard(subject: Subject) -> Iterable[Finding]:
    """An upload or a download was cut short, or the index is that of another checkpoint.

    vLLM up to 0.25 reads the shards that are there and says nothing of the others. In an
    unquantized model its check for missing weights then stops it; in a quantized one there is no
    such check, and it serves uninitialised memory. vLLM from 0.26, SGLang and transformers refuse
    to start.
    """
    lost: dict[str, int] = defaultdict(int)
    for shard in (subject.index or {}).values():
        lost[shard] += shard not in subject.source.files
    for engine in subject.engines:
        consequence = "the engine does not start"
        if facts.MISSING_SHARD_UNNOTICED.holds_for(engine):
            consequence = "the engine leaves its tensors uninitialised if the model is quantized"
        for shard, tensors in lost.items():
            if tensors:
                found = f"no such file, of {tensors} tensors: {consequence}"
                yield Finding(INDEX, shard, "a file of the checkpoint", found, (str(engine),))


@rule(
    "F102",
    "duplicate-tensor-differs",
    Severity.ERROR,
    "two files hold a tensor of the same name, and not of the same dtype and shape",
    repair="remove the tensor from the file that it does not belong to, and write the index anew",
)
def duplicate_tensor_differs(subject: Subject) -> Iterable[Finding]:
    """Two tensors claim one name; what the model means depends on who reads it.

    Engines read every file that the index names, whole, and load each tensor as it comes: the last
    one stays, or stops the engine where its shape does not fit. `duplicate-tensor` says who reads
    what last.
    """
    yield from _duplicates(subject, alike=False)


@rule(
    "F103",
    "duplicate-tensor",
    Severity.WARNING,
    "two files hold a tensor of the same name, dtype and shape",
    repair="remove it from all files but one, and write the index anew",
)
def duplicate_tensor(subject: Subject) -> Iterable[Finding]:
    """The tensor that is loaded depends on the order in which an engine reads the files.

    The index names one file for a tensor, but engines don't go by that: they read every file that
    it names, whole, and the last tensor of a name stays. vLLM reads by number (`model-2` before
    `model-10`), transformers by name (`model-10` before `model-2`), SGLang as the file system lists
    the files, with several threads. Where the two are equal bit for bit, only room is wasted;
    headers can't tell.
    """
    yield from _duplicates(subject, alike=True)


def _duplicates(subject: Subject, *, alike: bool) -> Iterator[Finding]:
    def found() -> Iterator[Finding]:
        for name, shards in subject.holders.items():
            kinds = {_kind(subject.headers[shard].tensors[name]) for shard in shards}
            if len(shards) > 1 and (len(kinds) == 1) is alike:
                file = (subject.index or {}).get(name, shards[0])
                holders = (
                    shard if alike else f"{shard} ({_told(subject.headers[shard].tensors[name])})"
                    for shard in shards
                )
                description = f"in {', '.join(holders)}; {_last_read(shards)}"
                yield Finding(file, name, "in one file", description)

    return found()


def _kind(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    return tensor.dtype, tensor.shape


def _told(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _last_read(shards: Sequence[str]) -> str:
    by_number, by_name = max(shards, key=_natural), max(shards)
    if by_number == by_name:
        return f"vLLM and transformers read {by_name} last"
    return f"vLLM reads {by_number} last, transformers {by_name}"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts as vLLM does: digits by their number."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


@rule(
    "F104",
    "single-file-beside-index",
    Severity.ERROR,
    "model.safetensors is not what the index describes, and transformers prefers it",
    repair="remove model.safetensors, or the index and its shards",
    holds_for="transformers, and what loads through it: quantizers, trainers, evaluations",
    seen=("https://github.com/Blaizzy/mlx-vlm/pull/1464",),
)
def single_file_beside_index(subject: Subject) -> Iterable[Finding]:
    """Two checkpoints lie in one folder, and loaders differ in which one they take.

    vLLM and SGLang go by the index and drop a model.safetensors that it does not name.
    transformers looks for model.safetensors first and never reads the index. The two here hold
    other tensors, so what was quantized or evaluated with transformers is not what is served.
    """
    if difference := _rivalry(subject):
        yield Finding(SINGLE, None, "the tensors of the index", difference)


def _rivalry(subject: Subject) -> str:
    """How a model.safetensors that the index does not name differs from what it names."""
    if subject.index is None or SINGLE in subject.shards or SINGLE not in subject.headers:
        return ""
    return _difference(_kinds(subject, [SINGLE]), _kinds(subject, _there(subject)))


def _there(subject: Subject) -> list[str]:
    """The files that engines read, without those that are missing."""
    return [shard for shard in subject.shards if shard in subject.headers]


def _kinds(subject: Subject, shards: Iterable[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        name: _kind(tensor)
        for shard in shards
        for name, tensor in subject.headers[shard].tensors.items()
    }


def _difference(tensors: Mapping[str, object], expected: Mapping[str, object]) -> str:
    """How one file's tensors differ from those that it should hold."""
    missing = [name for name in expected if name not in tensors]
    added = [name for name in tensors if name not in expected]
    changed = [name for name in expected if name in tensors and tensors[name] != expected[name]]
    changes = ((missing, "lacks"), (added, "adds"), (changed, "changes dtype or shape of"))
    return "; ".join(
        f"{word} {len(names)} tensors such as {names[0]}" for names, word in changes if names
    )


@rule(
    "F105",
    "consolidated-beside-shards",
    Severity.ERROR,
    "vLLM takes the checkpoint for Mistral's own format and reads consolidated*.safetensors alone",
    repair="remove consolidated*.safetensors, or serve with --load-format safetensors",
    holds_for="vllm, with --load-format auto (its default)",
    seen=(
        "https://github.com/vllm-project/vllm/issues/40765",
        "https://github.com/vllm-project/vllm/issues/4989",
    ),
)
def consolidated_beside_shards(subject: Subject) -> Iterable[Finding]:
    """A file called consolidated*.safetensors changes how vLLM loads the whole folder.

    With the default load format vLLM first looks for such a file. Where there is one it reads these
    files only, filtered by consolidated.safetensors.index.json, and neither the shards nor their
    index. Mistral's repositories mean it so, and hold a params.json; elsewhere the names or the
    tensors in it are not those that the model class expects. SGLang reads what the index names.
    """
    engines = facts.CONSOLIDATED_FIRST.among(subject.engines)
    consolidated = [name for name in subject.headers if name.startswith(_CONSOLIDATED)]
    others = [shard for shard in _there(subject) if shard not in consolidated]
    if not engines or not consolidated or not others or "params.json" in subject.source.files:
        return
    if _kinds(subject, consolidated) != _kinds(subject, others):
        found = f"read instead of {', '.join(others[:2])}{' …' if len(others) > 2 else ''}"
        yield Finding(consolidated[0], None, "no such file", found, engines, len(consolidated))


@rule(
    "F106",
    "unlisted-file",
    Severity.WARNING,
    "a safetensors file that the index does not name",
    repair="add its tensors to the index, or remove the file",
    seen=(
        "https://github.com/ml-explore/mlx-swift-lm/pull/408",
        "https://github.com/Blaizzy/mlx-vlm/pull/1464",
    ),
)
def unlisted_file(subject: Subject) -> Iterable[Finding]:
    """vLLM, SGLang and transformers read the files that the index names, and no others.

    Tensors that are only here are not loaded, and nothing says so: an `mtp.safetensors` that was
    put beside the shards is as good as absent (SGLang makes an exception for GLM-4 alone). Loaders
    that read every file there is take them for weights of the model. Tensors that are in the index
    too only cost room and time to fetch.
    """
    if subject.index is None:
        return
    for name in sorted(subject.headers.keys() - set(subject.shards)):
        # What these do to a loader has rules of its own.
        if name.startswith(_CONSOLIDATED) or (name == SINGLE and _rivalry(subject)):
            continue
        if name == ADAPTER and ADAPTER_CONFIG in subject.source.files:
            continue
        tensors = subject.headers[name].tensors
        only = [tensor for tensor in tensors if tensor not in subject.tensors]
        found = f"{len(tensors)} tensors, of which {len(only)} are in no other file"
        if only:
            found += f", such as {only[0]}"
        yield Finding(name, None, f"a file that {INDEX} names", found)


@rule(
    "F107",
    "no-index",
    Severity.WARNING,
    "several weight files and no index, or one under another name than model.safetensors",
    repair=f"write {INDEX}, or call the only file model.safetensors",
)
def no_index(subject: Subject) -> Iterable[Finding]:
    """Engines read every *.safetensors file then; transformers finds no checkpoint, or half of one.

    vLLM and SGLang take what is there. transformers looks for model.safetensors, then for the
    index. With neither it raises an OSError; with a model.safetensors it loads that one alone, and
    the tensors of the other files get random weights.
    """
    names = subject.shards
    if subject.index is None and names != [SINGLE]:
        found = f"{', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
        yield Finding(names[0], None, f"{SINGLE} alone, or {INDEX}", found, (), len(names))


@rule(
    "F108",
    "shard-numbering",
    Severity.WARNING,
    "the shards' names count more, fewer or other shards than there are",
    repair="look for the shard that is missing; if none is, name the shards anew, and the index",
)
def shard_numbering(subject: Subject) -> Iterable[Finding]:
    """`model-00003-of-00015.safetensors` says that there are fifteen.

    Engines don't read these numbers, so a gap alone breaks nothing; but it is what a shard that was
    never uploaded looks like when the index was written after that, or files of two checkpoints in
    one folder.
    """
    numbers: dict[tuple[str, int], set[int]] = defaultdict(set)
    for shard in subject.shards:
        if match := _NUMBERED.fullmatch(shard):
            numbers[match["stem"], int(match["count"])].add(int(match["number"]))
    stems = [stem for stem, _ in numbers]
    for (stem, count), present in sorted(numbers.items()):
        strange = sorted(present ^ set(range(1, count + 1)))
        if strange or stems.count(stem) > 1:
            found = f"{len(present)} such shards"
            if strange:
                listing = ", ".join(map(str, strange[:8])) + (" …" if len(strange) > 8 else "")
                found += f"; missing or too many: {listing}"
            others = sorted(other for name, other in numbers if name == stem and other != count)
            if others:
                found += f"; beside shards of {', '.join(map(str, others))}"
            file = INDEX if subject.index is not None else min(subject.shards)
            yield Finding(file, f"{stem}-*-of-{count:05}", f"shards 1 to {count}", found)


@rule(
    "F109",
    "empty-file",
    Severity.NOTE,
    "a safetensors file without a tensor",
    repair="remove the file; if it should hold tensors, write it again",
)
def empty_file(subject: Subject) -> Iterable[Finding]:
    """Loaders skip it; but what was meant to be in it is not there.

    Some writers leave one behind when all tensors of a shard were dropped or moved, and a merge
    that failed can end so too.
    """
    for name, header in subject.headers.items():
        if not header.tensors:
            yield Finding(name, None, "tensors", f"none, in {subject.source.files[name]} bytes")


@rule(
    "F126",
    "unreadable-file",
    Severity.ERROR,
    "a file of the checkpoint can't be used",
    repair="fetch the file again at the checkpoint's revision",
    always=True,
)
def unreadable_file(subject: Subject) -> Iterable[Finding]:
    """What depends on the file is not judged; all other files are.

    A download was cut short, a Git LFS pointer lies in the file's place, its mode shuts this user
    out, or it holds something else than its name says: config.json no JSON object, the index no
    `weight_map`, a shard no safetensors header that fits it. Engines stop at such a file.
    """
    if subject.refusal is None:
        for name, error in sorted(subject.unread.items()):
            _, _, part = error.where.partition(f"{name}: ")
            yield _finding_of(error, name, part or None)


@rule(
    "F127",
    "nothing-to-judge",
    Severity.ERROR,
    "there is no checkpoint that could be judged",
    repair="name the folder or repository that holds config.json and *.safetensors",
    always=True,
)
def nothing_to_judge(subject: Subject) -> Iterable[Finding]:
    """No config.json or no safetensors file lies there, or the place can't be read.

    Other checkpoints of the same command are judged, and every report is written. Where none could
    be judged, the command exits with 2.
    """
    if subject.refusal is not None:
        error = subject.refusal
        yield _finding_of(error, WHOLE, error.where)


def _finding_of(error: ScionError, file: str, subject: str | None) -> Finding:
    found = f"{error.problem}: {error.found}"
    return Finding(file, subject, error.expected, found, repair=error.hint)


RULES = (
    missing_shard,
    duplicate_tensor_differs,
    duplicate_tensor,
    single_file_beside_index,
    consolidated_beside_shards,
    unlisted_file,
    no_index,
    shard_numbering,
    empty_file,
    *index.RULES,
    *code.RULES,
    unreadable_file,
    nothing_to_judge,
)
