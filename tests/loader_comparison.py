"""Scion's answers about layers beside an engine's own: what the comparisons of engines share."""

import json
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loader_cases import Case, cases
from scion.artifacts.environments import interpreter
from scion.engines.loading.class_build import ClassBuild, Layer
from scion.engines.loading.planning import Decision
from scion.engines.registry.decisions import build_of, decisions
from scion.engines.releases import EngineRelease

PROJECT = Path(__file__).parent.parent
RAISES = "raises"

Declare = Callable[[Case, random.Random], dict[str, Any]]
Asked = tuple[dict[str, Any], list[str | None]]
"""A question, and Scion's answer for each of its layers."""


@dataclass(frozen=True)
class Kind:
    """One kind of declaration.

    Attributes:
        name: What the engine's side calls it.
        declare: Makes a declaration of a case.
        lists: Exclusion lists for each architecture.
    """

    name: str
    declare: Declare
    lists: int


def questions(
    engine: EngineRelease,
    kind: Kind,
    architectures: Sequence[str],
    *,
    seed: int,
    outcome: Callable[[Decision], str | None],
    asks: Callable[[ClassBuild, Layer], bool],
) -> Iterator[Asked]:
    """Questions for an engine, for the target and the draft model apart.

    Args:
        engine: The engine.
        kind: What is declared.
        architectures: The model classes.
        seed: Of the generated cases.
        outcome: Scion's decision in the words of the engine's answers.
        asks: Whether the declaration decides on a layer at all, or the model class before it.
    """
    for architecture in architectures:
        random_ = random.Random(f"{kind.name} {architecture}")
        for case in cases(architecture, lists=kind.lists, seed=seed, modules=60):
            declared = kind.declare(case, random_)
            config = {"architectures": [architecture], "quantization_config": declared}
            build = build_of(engine, config)
            assert isinstance(build, ClassBuild)
            made = decisions(engine, config, None, case.modules)
            layers = {build.layer(name): outcome(made[name]) for name in case.modules}
            for draft in (False, True):
                expected = {
                    layer: answer
                    for layer, answer in layers.items()
                    if layer.draft == draft and asks(build, layer)
                }
                question = {"kind": kind.name, "model": architecture, "draft": draft}
                names = [[layer.name, layer.kind] for layer in expected]
                if expected:
                    yield question | {"config": config, "layers": names}, [*expected.values()]


Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_in(environment: str) -> Run:
    """Runs a file, with arguments, in an environment of envs/."""
    python = PROJECT / interpreter(f"envs/{environment}")
    assert python.exists(), "`make test` installs it; python tools/setup.py --tests does"

    def run(script: Path, *arguments: Path) -> "subprocess.CompletedProcess[str]":
        command = [str(python), str(script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def ask(run_file: Run, truth: str, questions: list[dict[str, Any]], folder: Path) -> list[Any]:
    """Have a script of tests/ answer in the environment in which `run_file` runs it."""
    questions_file, answers_file = folder / "questions.jsonl", folder / "answers.jsonl"
    questions_file.write_text("".join(json.dumps(question) + "\n" for question in questions))
    run = run_file(PROJECT / "tests" / truth, questions_file, answers_file)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in answers_file.read_text().splitlines()]


def compare(
    questions: list[Asked], answers: list[Any], counts: dict[str, Counter[str | None]]
) -> Iterator[str]:
    """Count the engine's answers, and tell where Scion's are different."""
    for (question, ours), answer in zip(questions, answers, strict=True):
        theirs = [RAISES] * len(ours) if answer == RAISES else answer
        counts[question["kind"]].update(theirs)
        for (layer, _), expected, actual in zip(question["layers"], ours, theirs, strict=True):
            if expected != actual:
                yield f"{layer}: {expected}, the engine {actual}, {question}"[:1500]


def compare_builds(
    engine: EngineRelease, facts: dict[str, Any], *, keys: Sequence[str] = ("fused",)
) -> None:
    """Assert that the model classes' own mappings are those of Scion's builds."""
    for architecture, theirs in facts.items():
        build = build_of(engine, {"architectures": [architecture]})
        assert build is not None
        ours = {key: getattr(build, key) for key in keys}
        if build.draft_fused:
            ours["draft_fused"] = build.fused_in_draft(engine)
        for key, value in ours.items():
            assert json.loads(json.dumps(value)) == theirs[key], (architecture, key)


def conclude(
    counts: dict[str, Counter[str | None]], different: list[str], *, raises: float, plain: float
) -> None:
    """Fail on any difference, or if some answer is so common that a model could guess it.

    Args:
        counts: The engine's answers by kind.
        different: What is different.
        raises: The least share of answers that are errors.
        plain: The least share of layers that stay unquantized.
    """
    print(*(f"\n{kind}: {sum(tally.values())} {dict(tally)}" for kind, tally in counts.items()))
    assert not different, f"{len(different)} differ:\n" + "\n".join(different[:5])
    assert sum(counts["modelopt"].values()) >= 20_000
    for kind, tally in counts.items():
        total = sum(tally.values())
        assert tally[RAISES] >= raises * total, (kind, tally)
        assert tally[None] >= plain * total, (kind, tally)
        assert total - tally[RAISES] - tally[None] >= 0.2 * total, (kind, tally)
