"""Which engines read a spelling, asked before there is a release in it."""

from collections.abc import Iterable

from scion.architectures.families import head_prefixes
from scion.engines.loading.scheme import NotModelled, Refused
from scion.engines.registry.engines import engine_of, parse_engines
from scion.formats.modelopt import HF_QUANT_CONFIG
from scion.formats.spellings import Spelling

# What a declaration names beside the algorithms is of no account here.
_PRODUCER = {"name": "modelopt", "version": "0"}
_OF_HEAD = f"{head_prefixes()[0]}layers.0.self_attn.o_proj"


def unread(
    spelling: Spelling,
    algorithms: Iterable[str],
    engines: Iterable[str],
    *,
    head: str | None = None,
) -> list[str]:
    """What engines refuse of a release in a spelling, or are not known to read.

    Args:
        spelling: How it declares its modules.
        algorithms: Those that its modules have.
        engines: As `scion.engines.registry.engines.parse_engines` takes them.
        head: That of the MTP head; None where it stays bf16.

    Returns:
        A sentence for each release of an engine that would not serve it.
    """
    modules = {f"model.layers.{number}": found for number, found in enumerate(algorithms)}
    modules |= {_OF_HEAD: head} if head else {}
    declared = spelling.declaration([], producer=_PRODUCER, algorithms=modules)
    sidecars = {name: content(declared) for name, content in spelling.sidecars.items()}
    refusals: list[str] = []
    for release in parse_engines(engines):
        try:
            engine_of(release).read(
                release, {"quantization_config": declared}, sidecars.get(HF_QUANT_CONFIG)
            )
        except Refused as refused:
            refusals.append(refused.text)
        except NotModelled as unknown:
            # Of what it reads of a method it knows, lint says no more either.
            if unknown.method == spelling.quant_method:
                refusals.append(f"{release} is not known to read {unknown.method}")
    return refusals
