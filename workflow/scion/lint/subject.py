"""A checkpoint as the rules see it: files, configs, headers and small tensors, each read once."""

import math
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

from scion.architectures.class_variant import variant_of
from scion.architectures.inventory import Inventory, implied
from scion.checkpoint.safetensors_file import Header, Tensor
from scion.checkpoint.shards import CONFIG, INDEX, parse_object, parse_weight_map
from scion.checkpoint.source import Source
from scion.common.errors import ScionError, UnreachableError
from scion.engines.registry.decisions import Decision, decisions
from scion.engines.releases import EngineRelease
from scion.formats.modelopt import HF_QUANT_CONFIG
from scion.lint.formats import declared_formats, method_of
from scion.lint.mlx import mlx_marks
from scion.lint.modules import Module, modules_of
from scion.lint.stacks import ExpertStack, stacks_of

EMBEDDING = ("modules.json", "config_sentence_transformers.json")
"""Files by which sentence-transformers, and engines, know an embedding model."""
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter of PEFT's."""

_NUMBERS: Mapping[str, Callable[[bytes], tuple[float, ...]]] = {
    "F32": struct.Struct("<f").unpack,
    "F16": struct.Struct("<e").unpack,
    # The upper half of a float32.
    "BF16": lambda raw: struct.unpack("<f", bytes(2) + raw),
}
"""How to read one number of a dtype."""

_Content = TypeVar("_Content")


@dataclass(frozen=True, eq=False)
class Subject:
    """What there is to judge. Properties are computed once, and only if a rule asks.

    Attributes:
        source: Where it is read from.
        engines: The engines that shall serve it.
        tensor_parallel: The numbers of GPUs that it shall be split over.
        refusal: Why there is nothing to judge: no checkpoint is there, or it can't be reached.
        unread: Why a file can't be used, by its name; of the files that were asked for so far.
    """

    source: Source
    engines: Sequence[EngineRelease]
    tensor_parallel: Sequence[int]
    refusal: ScionError | None = None
    unread: dict[str, ScionError] = field(default_factory=dict[str, ScionError])

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        engines: Sequence[EngineRelease],
        tensor_parallel: Sequence[int] = (1,),
    ) -> "Subject":
        """Read config.json, the index and every header.

        A file that can't be used is in `unread` afterwards, and asking for what it holds raises the
        error that is there.
        """
        subject = cls(source, tuple(engines), tuple(tensor_parallel), _not_a_checkpoint(source))
        for name in ("config", "index", "headers") if subject.refusal is None else ():
            try:
                getattr(subject, name)
            except UnreachableError as error:
                return replace(subject, refusal=error, unread={})
            except ScionError:
                continue
        return subject

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Content of config.json.

        Raises:
            ScionError: It can't be read, or is no object.
        """
        return self._reading(CONFIG, lambda: _require_object(self.source, CONFIG))

    @cached_property
    def index(self) -> Mapping[str, str] | None:
        """Shard name by tensor name, as the index has it; None where there is no index.

        Raises:
            ScionError: It can't be read, or maps no tensors to files.
        """
        if INDEX not in self.source.files:
            return None
        return self._reading(
            INDEX,
            lambda: parse_weight_map(
                _require_object(self.source, INDEX), where=f"{self.source.name}/{INDEX}"
            ),
        )

    @cached_property
    def headers(self) -> Mapping[str, Header]:
        """Header by file name, of every safetensors file that is there.

        Raises:
            ScionError: One of them is no sound safetensors file.
        """
        names = _safetensors(self.source)
        for name in names:
            if name in self.unread:
                raise self.unread[name]
        # A hub is asked for all of them at a time; which of them is bad is asked only if one is.
        if self.source.folder is None:
            try:
                return self.source.headers(names)
            except UnreachableError:
                raise
            except ScionError:
                pass
        headers: dict[str, Header] = {}
        for name in names:
            with suppress(ScionError):
                headers |= self._reading(name, lambda name=name: self.source.headers([name]))
        if self.unread.keys() & set(names):
            raise next(self.unread[name] for name in names if name in self.unread)
        return headers

    def read(self, name: str) -> bytes | None:
        """A whole small file; None where it is absent, or reading it would cost too much.

        Raises:
            ScionError: It can't be read.
        """
        if name not in self.source.files:
            return None
        return self._reading(name, lambda: self.source.read(name))

    def _reading(self, name: str, read: Callable[[], _Content]) -> _Content:
        """What `read` makes of a file; where it fails, that is remembered, and not tried again."""
        if self.refusal is not None:
            raise self.refusal
        if name in self.unread:
            raise self.unread[name]
        try:
            return read()
        except ScionError as error:
            # Without its traceback, whose frames hold all that was read of the file.
            self.unread[name] = type(error)(
                error.problem,
                where=error.where,
                expected=error.expected,
                found=error.found,
                hint=error.hint,
            )
        raise self.unread[name]

    @cached_property
    def shards(self) -> list[str]:
        """The files that engines read: those of the index, or all where there is no index.

        Not the one of an adapter, which has a rule of its own.
        """
        if self.index is None:
            beside = ADAPTER if ADAPTER_CONFIG in self.source.files else None
            return [name for name in self.headers if name != beside] or list(self.headers)
        return sorted(set(self.index.values()))

    @cached_property
    def holders(self) -> dict[str, list[str]]:
        """The shards that hold each tensor, among those that engines read."""
        holders: dict[str, list[str]] = defaultdict(list)
        for shard in self.shards:
            for name in self.headers[shard].tensors if shard in self.headers else ():
                holders[name].append(shard)
        return dict(holders)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name; of one that stands in several shards, the first."""
        return {
            name: self.headers[shards[0]].tensors[name] for name, shards in self.holders.items()
        }

    @property
    def _tensors_read(self) -> dict[str, Tensor]:
        """Every tensor by name; none where a file of them can't be used."""
        with suppress(ScionError):
            return self.tensors
        return {}

    @property
    def stored_names(self) -> Iterable[str]:
        """The names of every tensor in any file, those that no index names included."""
        return chain.from_iterable(header.tensors for header in self.headers.values())

    @cached_property
    def modules(self) -> dict[str, Module]:
        """The tensors gathered by module."""
        return modules_of(self.tensors.values())

    def stored(self, module: str) -> str | None:
        """How a module's weight is stored, by itself or in a stack; None where there is none."""
        if own := self.modules.get(module):
            return own.stored
        stack = self.stack_of.get(module)
        return stack.stored if stack else None

    @cached_property
    def stacks(self) -> dict[str, ExpertStack]:
        """The stacked experts that are there, by name."""
        return stacks_of(self.tensors.values(), self.inventory.stacked if self.inventory else {})

    @cached_property
    def stack_of(self) -> dict[str, ExpertStack]:
        """The stack that stands for a module, by the module's name."""
        return {member: stack for stack in self.stacks.values() for member in stack.members}

    @cached_property
    def mlx_marks(self) -> tuple[str, ...]:
        """By what the layout is known for MLX's; empty where it is not, or tensors are unread."""
        return mlx_marks(self._tensors_read.values())

    @cached_property
    def inventory(self) -> Inventory | None:
        """What config.json implies, in the checkpoint's own spelling.

        None where its architecture is not known, config.json is unusable, or another tool has laid
        the checkpoint out.
        """
        return None if isinstance(self._implied, ScionError) else self._implied

    @property
    def config_problem(self) -> ScionError | None:
        """Why nothing follows from the config.json of an architecture that is known."""
        return self._implied if isinstance(self._implied, ScionError) else None

    @cached_property
    def _implied(self) -> Inventory | ScionError | None:
        if self.mlx_marks:
            return None
        embeds = not self.source.files.keys().isdisjoint(EMBEDDING)
        variant = variant_of(self.config, self._tensors_read, embeds=embeds)
        try:
            return implied(self.config, where=f"{self.source.name}/{CONFIG}", variant=variant)
        except ScionError as error:
            return error

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The language model's part of config.json; the whole where it is not nested."""
        text = self.config.get("text_config")
        return text if isinstance(text, dict) else self.config

    @property
    def scheme(self) -> Mapping[str, Any]:
        """The `quantization_config` of config.json; empty where there is none.

        Older compressed-tensors called it `compression_config`, and it may stand in `text_config`.
        """
        key = "quantization_config"
        places = ((self.config, key), (self.config, "compression_config"), (self.text_config, key))
        declarations = (place.get(name) for place, name in places)
        return next((scheme for scheme in declarations if isinstance(scheme, dict)), {})

    @cached_property
    def hf_quant_config(self) -> Mapping[str, Any] | None:
        """Content of hf_quant_config.json; None where there is none."""
        return self.json(HF_QUANT_CONFIG)

    @cached_property
    def declared(self) -> Mapping[str, Any]:
        """What config.json declares; of ModelOpt's, hf_quant_config.json fills in what it lacks."""
        other = self.hf_quant_config.get("quantization") if self.hf_quant_config else None
        if not isinstance(other, dict) or method_of(self.scheme) not in (None, "modelopt"):
            return self.scheme
        return {"quant_method": "modelopt", **other, **self.scheme}

    @cached_property
    def formats(self) -> frozenset[str] | None:
        """The number formats that the declared scheme accounts for.

        None where the scheme is not one that lint knows (GPTQ, AWQ, bitsandbytes, …): how its
        tensors are called and what shapes they have is then not judged.
        """
        return declared_formats(self.declared)

    @property
    def judged_modules(self) -> Mapping[str, Module]:
        """The modules; none under a scheme that lint does not know, whose bytes mean otherwise."""
        return {} if self.formats is None else self.modules

    def json(self, name: str) -> Mapping[str, Any] | None:
        """The object in a JSON file; None where the file is absent or too costly to read.

        Raises:
            ScionError: It holds no JSON object.
        """
        raw = self.read(name)
        where = f"{self.source.name}/{name}"
        return None if raw is None else self._reading(name, lambda: parse_object(raw, where=where))

    def shard_of(self, tensor: str) -> str:
        """The shard that a tensor is read from."""
        return self.holders[tensor][0]

    @property
    def names_file(self) -> str:
        """The file that lists the tensors: the index, or the only shard."""
        return INDEX if self.index is not None else self.shards[0]

    @cached_property
    def scalar_tensors(self) -> list[Tensor]:
        """The tensors of a single floating-point number: scales, for the most part."""
        return [
            tensor
            for tensor in self.tensors.values()
            if tensor.dtype in _NUMBERS and math.prod(tensor.shape) == 1
        ]

    @cached_property
    def scalars(self) -> dict[str, float]:
        """The value of every such tensor that could be read (on a hub, not all may)."""
        by_shard: dict[str, list[Tensor]] = defaultdict(list)
        for tensor in self.scalar_tensors:
            by_shard[self.shard_of(tensor.name)].append(tensor)
        contents = self.source.small(by_shard)
        return {name: _NUMBERS[self.tensors[name].dtype](raw)[0] for name, raw in contents.items()}

    @cached_property
    def decisions(self) -> dict[EngineRelease, dict[str, Decision]]:
        """What each engine makes of each linear module that config.json implies or that is there.

        Empty where the architecture is not known: nothing then says which modules are linear.
        """
        if self.inventory is None:
            return {}
        linear = self.inventory.linear
        return {
            engine: decisions(engine, self.config, self.hf_quant_config, linear)
            for engine in self.engines
        }


def _safetensors(source: Source) -> list[str]:
    return sorted(name for name in source.files if name.endswith(".safetensors"))


def _not_a_checkpoint(source: Source) -> ScionError | None:
    wanted = ((CONFIG, CONFIG in source.files), ("*.safetensors", bool(_safetensors(source))))
    for pattern, present in wanted:
        if not present:
            return ScionError(
                "not a checkpoint",
                where=source.name,
                expected=f"{pattern} at its top",
                found=", ".join(sorted(source.files)[:12]) or "no file",
                hint="name the folder or repository that holds config.json and *.safetensors; "
                "other formats are not read",
            )
    return None


def _require_object(source: Source, name: str) -> dict[str, Any]:
    raw = source.read(name)
    where = f"{source.name}/{name}"
    if raw is None:
        raise ScionError(
            f"{name} is too large to be what it says",
            where=where,
            expected="a few megabytes of JSON at most",
            found=f"{source.files[name]} bytes",
            hint="fetch the file again",
        )
    return parse_object(raw, where=where)
