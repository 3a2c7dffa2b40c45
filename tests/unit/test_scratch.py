"""Weights are dropped once nothing reads them, and come back when something has to."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from commands import check_refusal
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.plan import Plan, PlannedStage, Plans
from scion.artifacts.scratch import ScratchKeeper, earlier_readers
from scion.artifacts.store.audit import repair, verify
from scion.artifacts.store.housekeeping import Rules, prune
from scion.artifacts.store.known_files import KnownFiles
from scion.artifacts.store.listing import Listing
from scion.artifacts.store.store import Store
from scion.cli.main import main
from scion.common.errors import ScionError
from scion.common.files import write_json

SHARD, SMALL = "model.safetensors", "config.json"
READS = {
    "fetch_source": [],
    "fix_keys": ["fetch_source"],
    "extract_text": ["fix_keys"],
    "quantize_nvfp4": ["extract_text"],
    "graft_mtp": ["quantize_nvfp4", "fix_keys"],
    "evaluate_quality": ["graft_mtp", "fix_keys"],
    "render_card": ["extract_text", "evaluate_quality"],
    "seal_release": ["graft_mtp", "render_card"],
}
WITHOUT_SHARDS = ("evaluate_quality", "render_card")
# As a sound source passes through.
PASSES_ON = {"fix_keys": "fetch_source", "graft_mtp": "quantize_nvfp4", "seal_release": "graft_mtp"}


class Run:
    """A plan of one release, whose stages write a shard and a small file."""

    def __init__(self, root: Path, *, release: str = "one", **settings: str) -> None:
        self.store = Store.open([str(root / "results/.store")])
        self.plans = Plans()
        plan = Plan(root / "results" / release, self.store, together=self.plans)
        for name, reads in READS.items():
            own = {"text": settings.get(name, "")}
            plan.add(name, reads=reads, settings=own, environment="sha256:tests")
        self.stages = plan.stages
        self.plans.settle(plan.stages.values())
        self.made: list[str] = []

    @property
    def keeper(self) -> ScratchKeeper:
        return ScratchKeeper(self.plans, list(self.stages.values()), self.store)

    def drop(self) -> list[str]:
        """The stages whose shards a look drops."""
        keeper = self.keeper
        keeper.drop()
        contents = {stage.name: self.artifact(stage.name) for stage in self.stages.values()}
        return [
            name
            for name, artifact in contents.items()
            if artifact is not None and artifact.content in keeper.dropped
        ]

    def artifact(self, name: str) -> Artifact | None:
        pointer = self.stages[name].pointer
        return self.store.open_pointer(pointer) if pointer.is_file() else None

    def make(self, *names: str) -> None:
        """Make what a plan leaves to be made, of these stages, or of all."""
        for name in names or READS:
            if not self.stages[name].pointer.is_file():
                self.made.append(name)
                self._make(self.stages[name])

    def _make(self, stage: PlannedStage) -> None:
        inputs: Mapping[str, Artifact | Path] = {
            read.name: self.store.open_pointer(read.pointer) for read in stage.reads.values()
        }

        def build(draft: Draft) -> None:
            taken = inputs.get(PASSES_ON.get(stage.name, ""))
            if isinstance(taken, Artifact):
                draft.link(taken, SHARD)
            elif stage.name not in WITHOUT_SHARDS:
                made_of = f"{stage.name} {stage.asked['settings']['text']}".encode()
                weight = torch.frombuffer(bytearray(made_of * 99), dtype=torch.uint8)
                save_file({"weight": weight}, draft.folder / SHARD)
            (draft.folder / SMALL).write_text(stage.name)

        remake(
            Output(stage.pointer, self.store),
            stage=stage.name,
            inputs=inputs,
            settings=stage.asked["settings"],
            environment="sha256:tests",
            build=build,
        )

    def shards(self) -> list[str]:
        """The stages whose shard is there."""
        found = {name: self.artifact(name) for name in READS}
        return [
            n for n, artifact in found.items() if artifact and (artifact.folder / SHARD).exists()
        ]


def test_weights_go_once_the_last_stage_that_reads_them_has_ended(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.make("fetch_source", "fix_keys")
    assert run.drop() == []
    # The source's shard is the repaired model's as well, whose readers have not ended.
    run.make("extract_text", "quantize_nvfp4", "graft_mtp")
    assert run.drop() == ["extract_text"]
    run.make("evaluate_quality")
    assert run.drop() == ["fetch_source", "fix_keys"]
    # The quantized shard has a name in the release, so its room would not be free.
    run.make()
    assert run.drop() == []
    assert run.shards() == ["quantize_nvfp4", "graft_mtp", "seal_release"]
    for name in ("fetch_source", "fix_keys", "extract_text"):
        artifact = run.artifact(name)
        assert artifact is not None
        assert artifact.read_json("tensors.json")["weight"]["file"] == SHARD
        assert run.store.damage(artifact) == []


def test_a_plan_has_nothing_to_do_though_weights_are_gone(tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.make()
    first.drop()
    again = Run(tmp_path)
    again.make()
    assert again.made == []
    assert verify(again.store).problems == []


def test_what_has_to_run_gets_its_weights_again_and_no_other_stage_runs(tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.make()
    first.drop()
    before = {name: found.content for name in READS if (found := first.artifact(name))}
    # The card reads records alone.
    card = Run(tmp_path, render_card="other")
    card.make()
    assert card.made == ["render_card", "seal_release"]
    quantized = Run(tmp_path, quantize_nvfp4="other")
    quantized.make()
    assert quantized.made == list(READS)
    for name in ("fetch_source", "fix_keys", "extract_text"):
        artifact = quantized.artifact(name)
        assert artifact is not None
        assert artifact.content == before[name]
        assert artifact.check() == []
    assert verify(quantized.store).problems == []
    # Once more, with what was made last.
    assert quantized.drop() == ["fetch_source", "fix_keys", "extract_text"]
    evaluated = Run(tmp_path, quantize_nvfp4="other", evaluate_quality="other")
    evaluated.make()
    assert evaluated.made == [
        *("fetch_source", "fix_keys", "evaluate_quality", "render_card", "seal_release")
    ]


def test_nothing_goes_that_another_folder_of_results_shows(tmp_path: Path) -> None:
    Run(tmp_path, release="two").make("fetch_source", "fix_keys", "extract_text")
    run = Run(tmp_path)
    run.make()
    assert run.drop() == []


def test_nothing_goes_that_another_process_needs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.make()
    text, fixed = run.artifact("extract_text"), run.stages["fix_keys"].pointer.resolve()
    assert text is not None
    code = """if True:
        import sys
        from scion.artifacts.store.store import Store
        Store.open([sys.argv[1]]).leases.take(sys.argv[2:])
        print("taken", flush=True)
        sys.stdin.read()"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.store.folder), text.recipe, str(fixed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        assert run.drop() == []
        other.kill()
    # What this run's own process keeps from being pruned is no reason.
    next(iter(run.plans)).keep()
    assert run.drop() == ["fetch_source", "fix_keys", "extract_text"]


def test_a_file_with_another_name_stays(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.make()
    source = run.artifact("fetch_source")
    assert source is not None
    os.link(source.folder / SHARD, tmp_path / "the user's own.safetensors")
    assert run.drop() == ["extract_text"]


def test_what_a_job_is_still_to_write_anew_has_not_ended(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.make()
    keeper = run.keeper
    # As `--forcerun extract_text` has it: its pointer is there, of an earlier run.
    keeper.running = lambda: [str(run.stages["extract_text"].pointer)]
    keeper.drop()
    assert run.shards() == [*list(READS)[:5], "seal_release"]


def test_what_another_user_made_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.make()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert run.drop() == []
    assert not run.store.dropped.folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_of_a_shared_store_another_user_makes_weights_again() -> None:
    # Not below pytest's folders, which are closed to others.
    with tempfile.TemporaryDirectory() as shared:
        Path(shared).chmod(0o755)
        makes_weights_again(Run(Path(shared)))


def makes_weights_again(run: Run) -> None:
    store = run.store.folder
    run.make()
    artifacts = store / "artifacts"
    artifacts.chmod(0o775)
    run.drop()
    text = run.artifact("extract_text")
    assert text is not None
    made = store / "work/made"
    made.mkdir()
    (made / SHARD).write_text("made again")
    for path in (store, *store.rglob("*")):
        os.chown(path, 4321 if path.is_relative_to(made) else 1234, 55)
    for folder in (store / "dropped", made):
        folder.chmod(0o775)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(55)
            os.setuid(4321)
            names = run.store.dropped.complete(text.content, made, text.folder)
            os._exit(0 if names == [SHARD] else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (text.folder / SHARD).read_text() == "made again"


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_whoever_is_interrupted_while_dropping_loses_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KnownFiles, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.keeper.drop()
    assert list(run.store.dropped.folder.iterdir()) == []
    assert run.shards() == [name for name in READS if name not in WITHOUT_SHARDS]


def test_a_note_of_more_than_is_gone_does_no_harm(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.make()
    text = run.artifact("extract_text")
    assert text is not None
    # Whoever is killed has written the note before anything was removed.
    run.store.dropped.folder.mkdir()
    write_json(run.store.dropped.note(text.content), {"files": {SHARD: text.files[SHARD]}})
    again = Run(tmp_path, quantize_nvfp4="other")
    again.make()
    assert "extract_text" in again.made
    text = again.artifact("extract_text")
    assert text is not None
    assert text.check() == []
    assert list(run.store.dropped.folder.iterdir()) == []
    assert verify(again.store).problems == []


def test_on_a_full_disk_room_is_made_before_it_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    run.make()
    text = run.artifact("extract_text")
    assert text is not None

    def write(path: Path, content: object) -> None:
        if path == run.store.dropped.note(text.content) and (text.folder / SHARD).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write_json(path, content)

    monkeypatch.setattr("scion.artifacts.store.dropped.write_json", write)
    assert "extract_text" in run.drop()
    assert "extract_text" not in run.shards()


@pytest.mark.parametrize("content", ["{", "{}", '{"files": {"../x": {}}}', '{"files": 3}'])
def test_a_note_that_cannot_be_read_is_told_and_moved_away(tmp_path: Path, content: str) -> None:
    run = Run(tmp_path)
    run.make()
    run.drop()
    text = run.artifact("extract_text")
    assert text is not None
    note = run.store.dropped.note(text.content)
    note.write_text(content)
    with pytest.raises(ScionError) as refused:
        Run(tmp_path)
    check_refusal(f"error: {refused.value}", str(note), "verify --repair")
    repair(run.store, verify(run.store))
    assert not note.exists()
    again = Run(tmp_path)
    again.make()
    assert again.made[:3] == ["fetch_source", "fix_keys", "extract_text"]
    assert verify(again.store).problems == []


def test_a_stage_that_is_started_without_its_weights_says_so(tmp_path: Path) -> None:
    first = Run(tmp_path)
    first.make()
    first.drop()
    run = Run(tmp_path, quantize_nvfp4="other")
    # As if it had been planned before they were dropped.
    run.stages["extract_text"].pointer = first.stages["extract_text"].pointer
    with pytest.raises(ScionError) as refused:
        run.make("quantize_nvfp4")
    check_refusal(f"error: {refused.value}", "were dropped from the store", SHARD)
    assert run.artifact("quantize_nvfp4") is None


def test_a_store_lists_what_was_dropped_and_forgets_it_with_the_artifact(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.make()
    run.drop()
    rows = {row["stages"][0]: row for row in Listing.of(run.store).record()["artifacts"]}
    assert rows["extract_text"]["dropped"] > 1000 > rows["extract_text"]["size"]
    assert rows["graft_mtp"]["dropped"] == 0
    assert any(" dropped" in line for line in Listing.of(run.store).lines())
    (tmp_path / "results/one").rename(tmp_path / "elsewhere")
    prune(run.store, Rules(), dry_run=False, say=lambda _: None)
    assert list(run.store.dropped.folder.iterdir()) == []


def test_a_damaged_small_file_is_noticed_though_weights_are_gone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.make()
    run.drop()
    text = run.artifact("extract_text")
    assert text is not None
    (text.folder / SMALL).chmod(0o644)
    (text.folder / SMALL).write_text("other")
    (problem,) = verify(run.store).problems
    assert problem.where == text.folder / SMALL
    again = Run(tmp_path)
    again.make()
    assert again.made == ["fetch_source", "fix_keys", "extract_text"]
    text = again.artifact("extract_text")
    assert text is not None
    assert text.check() == []


def test_check_says_what_became_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path)
    run.make()
    run.drop()
    monkeypatch.setattr(sys, "argv", ["scion", "check", str(tmp_path / "results/one/extract_text")])
    assert main() == 1
    check_refusal(capsys.readouterr().err, "were dropped from the store", SHARD)


CHAIN = ("fetch_source", "quantize_nvfp4", "graft_mtp", "evaluate_quality")


def family(releases: int) -> tuple[list[str], list[list[int]]]:
    """Releases of a source each, which is quantized and evaluated beside; all are compared."""
    names, reads = [], []
    for release in range(releases):
        first = 4 * release
        names += CHAIN
        reads += [[], [first], [first + 1], [first + 2, first]]
    names.append("compare_family")
    reads.append([4 * release + place for release in range(releases) for place in (2, 3)])
    return names, reads


def test_a_further_source_waits_for_all_that_reads_an_earlier_one() -> None:
    names, reads = family(4)
    found = earlier_readers(names, reads, 2)
    # Neither for the release, nor for what compares all of them and so needs each source itself.
    assert found == {8: [1, 2, 3], 12: [5, 6, 7]}
    assert earlier_readers(names, reads, 4) == {}


def test_releases_of_one_source_count_once() -> None:
    names = ["fetch_source", "quantize_nvfp4", "quantize_nvfp4", "fetch_source"]
    assert earlier_readers(names, [[], [0], [0], []], 1) == {3: [1, 2]}
