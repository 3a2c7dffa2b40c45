"""Plans of several releases: what they have in common is one stage, and each folder is whole."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.plan import Plan, PlannedStage, Plans
from scion.artifacts.store.store import Store
from scion.evaluation.family.rounds import turns
from scion.report.run.ending import nothing_lines
from scion.report.run.plan_lines import plan_lines


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open([str(tmp_path / "results/.store")])


def planned(store: Store, tmp_path: Path, recipes: Mapping[str, str]) -> Plans:
    """Releases of one source, each quantized by its recipe."""
    together = Plans()
    for name in recipes:
        Plan(tmp_path / "results" / name, store, together=together)
    for plan in together:
        plan.add("fetch_source", settings={"location": "a"}, environment="sha256:tests")
    for name, recipe in recipes.items():
        settings = {"recipe": recipe}
        together.plans[name].add(
            "quantize_nvfp4",
            reads=["fetch_source"],
            settings=settings,
            environment="sha256:tests",
        )
    return together


def make(stage: PlannedStage, store: Store, **settings: Any) -> None:
    def build(draft: Draft) -> None:
        (draft.folder / "made.txt").write_text(f"{stage.name} {settings}")

    remake(
        Output(stage.pointer, store),
        stage=stage.name,
        inputs={read.name: Artifact.open(read.pointer) for read in stage.reads.values()},
        settings=settings,
        environment="sha256:tests",
        build=build,
    )


def test_what_releases_ask_for_alike_is_one_stage(store: Store, tmp_path: Path) -> None:
    plans = planned(store, tmp_path, {"a": "x", "b": "x", "c": "y"})
    a, b, c = plans
    assert a.stages["fetch_source"] is b.stages["fetch_source"] is c.stages["fetch_source"]
    assert a.stages["quantize_nvfp4"] is b.stages["quantize_nvfp4"]
    assert a.stages["quantize_nvfp4"] is not c.stages["quantize_nvfp4"]
    assert len(plans.stages) == len(plans.pointers) == 3
    assert plans.releases(a.stages["fetch_source"]) == ["a", "b", "c"]
    assert [each.release for each in plans.stages.values()] == ["a", "a", "c"]
    lines = plan_lines(plans, list(plans.stages.values()))
    assert [line for line in lines if line.startswith("would run")] == [
        f"would run 2 stages for {a.folder}:",
        f"would run 1 stage for {c.folder}:",
    ]


def test_each_folder_shows_all_of_its_release(store: Store, tmp_path: Path) -> None:
    plans = planned(store, tmp_path, {"a": "x", "b": "y"})
    for stage in plans.stages.values():
        make(stage, store, **{key: stage.asked["settings"][key] for key in stage.asked["settings"]})
    for plan in plans:
        plan.show()
    shown = tmp_path / "results/b/fetch_source"
    assert Artifact.open(shown).check() == []
    # It stands by itself: alone, with the other's folder gone, nothing is left to be made.
    again = planned(store, tmp_path, {"b": "y"})
    assert [stage.release for stage in again.stages.values()] == ["b", "b"]
    assert all(stage.pointer.is_file() for stage in again.stages.values())


def test_a_release_that_was_made_alone_serves_the_family(store: Store, tmp_path: Path) -> None:
    alone = planned(store, tmp_path, {"b": "y"})
    for stage in alone.stages.values():
        make(stage, store)
    plans = planned(store, tmp_path, {"a": "x", "b": "y"})
    fetched = plans.plans["a"].stages["fetch_source"]
    assert fetched.pointer.is_file()
    assert fetched.release == "b"
    assert nothing_lines(plans) == [
        f"nothing to do: what is asked for is in {plan.folder}" for plan in plans
    ]


def test_a_stage_may_read_those_of_all_releases(store: Store, tmp_path: Path) -> None:
    plans = planned(store, tmp_path, {"a": "x", "b": "y"})
    family = Plan(tmp_path / "results/family", store, together=plans)
    quantized = [plans.plans[name].stages["quantize_nvfp4"] for name in "ab"]
    compared = family.add(
        "compare_family",
        reads={f"releases {number}": each for number, each in enumerate(quantized)},
        settings={},
        environment="sha256:tests",
    )
    assert {each.name for each in family.all_of("compare_family")} == {
        *("compare_family", "quantize_nvfp4", "fetch_source")
    }
    assert len(family.all_of("compare_family")) == 4
    assert plans.pointers[compared.pointer] is compared


def test_a_family_is_planned_in_time_that_grows_with_it_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    listed: list[Path] = []
    list_folder = os.listdir
    monkeypatch.setattr(
        "scion.artifacts.plan.code_digest", lambda module: looked_at.append(module) or module
    )
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or list_folder(path))
    plans = planned(store, tmp_path, {f"r{number}": f"recipe {number}" for number in range(40)})
    assert looked_at == ["scion.stages.fetch_source", "scion.stages.quantize_nvfp4"]
    assert len(listed) == len(set(listed)) == 40
    # Each once, also what all are made from.
    assert len(plans.all_of("quantize_nvfp4")) == 41
    assert {each.name for each in plans.all_of("fetch_source")} == {"fetch_source"}


def test_releases_take_turns_and_each_repeat_is_timed_once() -> None:
    order = list(turns(3, 5, 2))
    assert [place for place, _ in order] == [0, 1, 2, 2, 1, 0]
    for place in range(3):
        repeats = [repeat for own, part in order if own == place for repeat in part]
        assert sorted(repeats) == list(range(5))
    # More rounds than repeats start no server for nothing.
    assert list(turns(1, 2, 9)) == [(0, [0]), (0, [1])]
