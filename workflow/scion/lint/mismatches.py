"""Where an engine builds modules in another format than their tensors have."""

from collections.abc import Callable, Iterable

from scion.checkpoint.shards import CONFIG
from scion.engines.registry.decisions import Decision
from scion.engines.releases import EngineRelease
from scion.lint.modules import format_of
from scion.lint.rule import Finding
from scion.lint.stacks import PACKED_STACK
from scion.lint.subject import Subject


def mismatches(subject: Subject, about: Callable[[str], bool]) -> Iterable[Finding]:
    """A finding for each module, and engine whose decision differs from what is stored.

    Experts in a stack are named by it. A packed stack, which nothing builds, is another rule's.

    Args:
        subject: The checkpoint; under a scheme that lint does not know there is none.
        about: Which modules are looked at, by name.
    """
    if subject.formats is None:
        return
    for engine, decisions in subject.decisions.items():
        yield from (
            Finding(
                CONFIG,
                stack.name if (stack := subject.stack_of.get(name)) else name,
                _expected(engine, decision),
                f"stored as {stored}",
                (str(engine),),
            )
            for name, decision in decisions.items()
            if about(name)
            and (stored := subject.stored(name)) is not None
            and stored != PACKED_STACK
            and decision.problem is None
            and stored != format_of(decision.algorithm)
        )


def _expected(engine: EngineRelease, decision: Decision) -> str:
    """What is built and why, in words that are the same for each release and layer that agree."""
    reason = decision.reason.partition("; ")[0].replace(f"{engine} ", "it ")
    return f"{format_of(decision.algorithm)}, as the scheme says ({reason})"
