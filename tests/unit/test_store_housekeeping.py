import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from commands import check_refusal
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.store import housekeeping
from scion.artifacts.store.known_files import KnownFiles
from scion.artifacts.store.store import Store
from scion.cli.main import main
from scion.common.errors import ScionError
from scion.common.files import write_json

DAY = 86400


class Place:
    """A store and folders of results, as runs of the workflow leave them."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root = root
        self.store = Store.open([str(store)])

    def make(self, text: str, release: str = "one", stage: str = "demo", **more: Any) -> Artifact:
        """Make an artifact whose pointer carries its settings, as a plan's do."""
        build: Callable[[Draft], None] = more.pop("build", write_text(text))
        pointer = self.root / release / ".pointers" / f"{stage}-{text}.json"
        return remake(
            Output(pointer, self.store),
            stage=stage,
            inputs=more.pop("inputs", {}),
            settings={"text": text},
            environment="sha256:e",
            build=build,
        )

    def pointer(self, text: str, release: str = "one", stage: str = "demo") -> Path:
        return self.root / release / ".pointers" / f"{stage}-{text}.json"

    def used(self, artifact: Artifact, days_ago: float) -> None:
        age(self.store.record(artifact.recipe), days_ago)

    def holds(self, *artifacts: Artifact) -> list[bool]:
        return [self.store.holds(artifact.content) for artifact in artifacts]


def write_text(text: str, size: int = 1000) -> Callable[[Draft], None]:
    def build(draft: Draft) -> None:
        (draft.folder / "file.txt").write_text((text * size)[:size])

    return build


def age(path: Path, days: float) -> None:
    stamp = time.time() - days * DAY
    os.utime(path, (stamp, stamp))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "results", tmp_path / "results/.store")


Scion = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scion(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Scion:
    """`scion store …` on that store: exit code, what it printed, what it complained of."""

    def run(*words: object, store: Path | None = None) -> tuple[int, str, str]:
        folder = place.store.folder if store is None else store
        words = ("scion", "store", *words, "--store", folder)
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        capsys.readouterr()
        code = main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def listing(folder: Path) -> dict[str, tuple[int, int, int, int, int]]:
    found: dict[str, tuple[int, int, int, int, int]] = {}
    for path in (folder, *folder.rglob("*")):
        info = path.lstat()
        times = (info.st_mtime_ns, info.st_ctime_ns)
        found[str(path)] = (info.st_ino, info.st_mode, info.st_nlink, *times)
    return found


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has printed a line when this returns, and goes on."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# What is kept and what goes


def test_what_links_show_is_kept_and_older_configurations_go(place: Place, scion: Scion) -> None:
    old, new = place.make("old"), place.make("new")
    code, printed, _ = scion("prune")
    assert code == 0
    assert place.holds(old, new) == [False, True]
    assert not place.pointer("old").exists()
    assert not place.store.record(old.recipe).exists()
    assert place.pointer("new").exists()
    assert (place.root / "one/demo/file.txt").read_text().startswith("new")
    assert str(old.folder) in printed
    assert re.search(r"remove artifacts: 1, .* 1.00 kB freed", printed)
    assert scion("verify")[0] == 0


def test_what_another_stage_shows_is_kept(place: Place, scion: Scion) -> None:
    first, second = place.make("same"), place.make("text", stage="other")
    scion("prune")
    assert place.holds(first, second) == [True, True]


def test_of_two_recipes_of_one_content_the_content_and_both_records_stay(
    place: Place, scion: Scion
) -> None:
    first = place.make("a", build=write_text("same"))
    second = place.make("b", build=write_text("same"))
    assert first.content == second.content
    scion("prune")
    assert place.store.record(first.recipe).exists()
    assert place.store.record(second.recipe).exists()
    assert place.pointer("a").exists()


def test_a_store_of_two_folders_of_results(tmp_path: Path, scion: Scion, place: Place) -> None:
    elsewhere = Place(tmp_path / "checkout/results", place.store.folder)
    mine, theirs, both = place.make("mine"), elsewhere.make("theirs"), place.make("x", "two")
    elsewhere.make("x", "two")
    scion("prune")
    assert place.holds(mine, theirs, both) == [True, True, True]
    shutil.rmtree(elsewhere.root)
    code, printed, _ = scion("prune")
    assert code == 0
    assert place.holds(mine, theirs, both) == [True, False, True]
    assert f"{elsewhere.root / 'one'}: gone" in printed
    assert len(list((place.store.folder / "roots").iterdir())) == 2


def test_a_root_of_another_host_is_kept_until_it_is_forgotten(
    tmp_path: Path, place: Place, scion: Scion, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setattr(socket, "gethostname", lambda: "elsewhere")
        remote = Place(tmp_path / "remote", place.store.folder).make("theirs")
    place.make("mine")
    shutil.rmtree(tmp_path / "remote")
    _, printed, _ = scion("prune")
    assert place.holds(remote) == [True]
    assert "noted on elsewhere" in printed
    assert f"--forget {tmp_path / 'remote/one'}" in printed
    scion("prune", "--forget", tmp_path / "remote/one")
    assert place.holds(remote) == [False]


def test_a_folder_that_is_there_is_not_forgotten(place: Place, scion: Scion) -> None:
    mine = place.make("mine")
    folder = place.root / "one"
    _, printed, _ = scion("prune", "--forget", folder)
    assert place.holds(mine) == [True]
    assert f"{folder.resolve()}: still there" in printed


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_to_forget_an_unknown_folder_is_refused(
    place: Place, scion: Scion, dry: tuple[str, ...]
) -> None:
    old = place.make("old")
    place.make("mine")
    code, _, errors = scion("prune", "--forget", place.root / "none", *dry)
    assert code == 1
    check_refusal(errors, "no such root", str(place.root / "none"), str(place.root / "one"))
    assert place.holds(old) == [True]


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "1e9", "a week", ""])
def test_days_that_are_none_are_refused(place: Place, scion: Scion, days: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        scion("prune", f"--older-than={days}")


def test_moved_results_with_the_store_inside_keep_what_they_show(
    tmp_path: Path, place: Place, scion: Scion
) -> None:
    mine = place.make("mine")
    place.root.rename(tmp_path / "moved")
    store = tmp_path / "moved/.store"
    code, printed, _ = scion("prune", store=store)
    assert (code, "gone" in printed) == (0, False)
    assert Store.open([str(store)]).holds(mine.content)
    assert (tmp_path / "moved/one/demo/file.txt").read_text().startswith("mine")


def test_a_renamed_release_beside_the_store_is_a_root_still(place: Place, scion: Scion) -> None:
    mine = place.make("mine")
    (place.root / "one").rename(place.root / "renamed")
    scion("prune")
    assert place.holds(mine) == [True]


def test_folders_that_cannot_be_read_show_what_was_noted(
    place: Place, scion: Scion, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = place.make("mine")
    place.pointer("mine").write_text("unreadable")
    scion("prune")
    assert place.holds(mine) == [True]


def test_a_root_that_cannot_be_read_stops_a_prune(place: Place, scion: Scion) -> None:
    old = place.make("old")
    place.make("new")
    next((place.store.folder / "roots").iterdir()).write_text("{}")
    code, _, errors = scion("prune")
    assert code == 1
    check_refusal(errors, "a root of the store can't be read")
    assert place.holds(old) == [True]
    assert "a root of the store can't be read" in scion("verify")[1]


def test_of_the_rest_what_was_used_last_is_kept(place: Place, scion: Scion) -> None:
    made = [place.make(text) for text in "abcd"]
    place.make("shown")
    # Not in the order in which they were made.
    for artifact, days in zip(made, (3, 1, 4, 2), strict=True):
        place.used(artifact, days)
    _, printed, _ = scion("prune", "--keep", "2kB")
    assert place.holds(*made) == [False, True, False, True]
    order = [str(made[2].folder), str(made[0].folder)]
    assert re.findall(r"remove (\S+): demo", printed) == order
    scion("prune", "--keep", "1.5 KiB")
    assert place.holds(*made) == [False, True, False, False]
    scion("prune", "--keep", "1TB")
    assert place.holds(*made) == [False, True, False, False]


def test_asking_for_an_artifact_again_is_a_use(place: Place, scion: Scion) -> None:
    first, second = place.make("first"), place.make("second")
    place.make("shown")
    place.used(first, 3)
    place.used(second, 2)
    before = listing(place.store.artifacts)
    place.store.open_pointer(place.pointer("first"))
    assert listing(place.store.artifacts) == before
    scion("prune", "--keep", "1kB")
    assert place.holds(first, second) == [True, False]


def test_files_with_other_names_count_for_nothing(place: Place, scion: Scion) -> None:
    big = place.root / "big.bin"
    big.write_bytes(b"x" * 5000)
    old = place.make("old", build=lambda draft: os.link(big, draft.folder / "big.bin"))
    place.make("shown")
    usage = json.loads(scion("du", "--json")[1])
    assert usage["elsewhere"] == usage["unreachable"] == 5000
    assert usage["freed"] == 0
    scion("prune", "--keep", "1kB")
    assert place.holds(old) == [True]
    known = KnownFiles(place.store.folder / "known")
    scion("prune")
    assert place.holds(old) == [False]
    # Its times changed with its names, and still it need not be read again.
    assert known.get(big) is not None


def test_half_made_work(place: Place, scion: Scion) -> None:
    def stop(draft: Draft) -> None:
        draft.work.mkdir(parents=True)
        (draft.work / "layer").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.make("half", build=stop)
    (work,) = (place.store.folder / "work").iterdir()
    scion("prune")
    assert work.exists()
    assert "half made: " in scion("ls")[1]
    for path in (*work.rglob("*"), work):
        age(path, 8)
    holder = child(
        "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\nsys.stdin.read()",
        place.store.folder / "locks" / f"{work.name}.lock",
    )
    try:
        scion("prune")
        assert work.exists()
        assert "half-made" not in scion("prune", "--dry-run")[1]
        assert "being made: " in scion("ls")[1]
    finally:
        end(holder)
    # Somebody who will soon begin to work there.
    holder = child(LEASE, place.store.folder, f"sha256:{work.name}")
    try:
        scion("prune")
        assert work.exists()
    finally:
        end(holder)
    assert "half-made" in scion("prune", "--dry-run")[1]
    scion("prune", "--older-than", "9")
    assert work.exists()
    scion("prune")
    assert not work.exists()


def test_damaged_entries_caches_leases_and_locks(place: Place, scion: Scion) -> None:
    made = place.make("made")
    folder = place.store.folder
    shown = place.store.known.folder / f"{(made.folder / 'file.txt').stat().st_ino}.json"
    old = {name: folder / name for name in ("known/1.json", "sources/" + "0" * 64 + ".json")}
    young = {name: folder / name for name in ("known/2.json", "sources/" + "1" * 64 + ".json")}
    for path in (*old.values(), *young.values()):
        write_json(path, {"content": "sha256:gone"})
    used = folder / "sources" / ("2" * 64 + ".json")
    write_json(used, {"name": "n", "content": made.content})
    half_written = folder / "records/.half"
    half_written.write_text("{")
    for path in (*old.values(), used, shown, half_written):
        age(path, 31)
    aside = place.store.set_aside(place.make("bad", stage="bad").content)
    assert list((folder / "leases").iterdir())
    scion("prune")
    assert not any(path.exists() for path in (*old.values(), half_written, aside))
    assert all(path.exists() for path in (*young.values(), used, shown))
    assert list((folder / "leases").iterdir()) == []
    assert {path.name for path in (folder / "locks").iterdir()} == {"leases.lock", "prune.lock"}
    # The record of what was set aside.
    assert len(list((folder / "records").iterdir())) == 1


# Beside others

LEASE = """
import sys
from pathlib import Path
from scion.artifacts.store.store import Store
Store.open([sys.argv[1]]).leases.take(sys.argv[2:])
print("leased", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("by", ["content", "recipe", "pointer"])
def test_what_a_living_process_needs_is_kept(place: Place, scion: Scion, by: str) -> None:
    old = place.make("old")
    place.make("new")
    pointer = str(place.pointer("old").resolve())
    name = {"content": old.content, "recipe": old.recipe, "pointer": pointer}[by]
    holder = child(LEASE, place.store.folder, name)
    try:
        scion("prune")
        assert place.holds(old) == [True]
        assert place.pointer("old").exists()
        assert "in use" in scion("ls")[1]
    finally:
        end(holder)
    scion("prune")
    assert place.holds(old) == [False]


def test_no_lease_begins_while_it_is_decided(
    place: Place, scion: Scion, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.make("made")
    seen: list[bool] = []

    def decide(store: Store, rules: housekeeping.Rules) -> housekeeping.Doomed:
        gate = store.folder / "locks/leases.lock"
        seen.append(housekeeping.held(gate))
        return real(store, rules)

    real = housekeeping.decide
    monkeypatch.setattr(housekeeping, "decide", decide)
    scion("prune")
    assert seen == [True]
    assert not housekeeping.held(place.store.folder / "locks/leases.lock")


def test_a_content_is_leased_while_it_enters_the_store(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    leased: list[set[str]] = []
    real = Store._enter

    def enter(store: Store, folder: Path, artifact: Artifact, written: Collection[str]) -> None:
        real(store, folder, artifact, written)
        leased.append(store.leases.leased() & {artifact.content})
        doomed = housekeeping.decide(store, housekeeping.Rules())
        assert doomed.artifacts == []

    monkeypatch.setattr(Store, "_enter", enter)
    made = place.make("made")
    assert leased == [{made.content}]


def test_a_prune_that_is_killed_leaves_trash_which_the_next_one_removes(
    place: Place, scion: Scion
) -> None:
    old, new = place.make("old"), place.make("new")
    process = child(
        """
import sys, time
from pathlib import Path
from scion.artifacts.store import housekeeping
from scion.artifacts.store.known_files import KnownFiles
from scion.artifacts.store.store import Store

def stop(self, folder):
    (next(folder.iterdir()) / "file.txt").unlink()
    print("half removed", flush=True)
    time.sleep(100)

KnownFiles.remove = stop
store = Store.open([sys.argv[1]])
housekeeping.prune(store, housekeeping.Rules(), dry_run=False, say=lambda doomed: None)
""",
        place.store.folder,
    )
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert place.holds(old, new) == [False, True]
    (trash,) = place.store.folder.glob("trash-*")
    code, printed, _ = scion("verify")
    assert code == 0, printed
    # A run goes on beside it.
    again = place.make("old")
    assert again.content == old.content
    place.make("new")
    _, printed, _ = scion("prune")
    assert f"{trash}: left by an earlier prune" in printed
    assert list(place.store.folder.glob("trash-*")) == []


def test_a_prune_that_is_killed_between_two_renames_is_done_by_the_next_one(
    place: Place, scion: Scion, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, older = place.make("old"), place.make("older")
    new = place.make("new")
    real, moved = housekeeping._move, list[Path]()

    def move(path: Path, trash: Path) -> None:
        if moved:
            raise SystemExit
        moved.append(path)
        real(path, trash)

    with monkeypatch.context() as killed:
        killed.setattr(housekeeping, "_move", move)
        with pytest.raises(SystemExit):
            scion("prune")
    assert sorted(place.holds(old, older, new)) == [False, True, True]
    assert "no record names it" in scion("verify")[1]
    scion("prune")
    assert place.holds(old, older, new) == [False, False, True]
    assert scion("verify")[0] == 0


def test_a_dry_run_changes_nothing(tmp_path: Path, place: Place, scion: Scion) -> None:
    old = place.make("old")
    place.make("new")
    place.make("gone", "two")
    shutil.rmtree(place.root / "two")
    place.store.set_aside(place.make("bad", stage="bad").content)
    (place.store.folder / "trash-0").mkdir()
    before = listing(tmp_path)
    code, printed, _ = scion("prune", "--dry-run", "--older-than", "0")
    for command in ("ls", "du"):
        scion(command)
    assert code == 0
    assert listing(tmp_path) == before
    assert f"would remove {old.folder}" in printed
    assert "would be freed" in printed


def test_what_another_user_made_is_left(
    place: Place, scion: Scion, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = place.make("old")
    place.make("new")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    code, printed, _ = scion("prune")
    assert code == 0
    assert place.holds(old) == [True]
    assert place.store.record(old.recipe).exists()
    assert f"{old.folder}: another user's" in printed


def test_bytes_that_another_user_made_before_are_taken(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = place.make("a", build=write_text("same"))
    real = Path.chmod

    def chmod(path: Path, mode: int) -> None:
        if theirs.folder == path:
            raise PermissionError(1, "Operation not permitted")
        real(path, mode)

    monkeypatch.setattr(Path, "chmod", chmod)
    assert place.make("b", build=write_text("same")).content == theirs.content


# Verifying


def flip(path: Path) -> None:
    """Change a bit, and let the file look as before to all who trust its times."""
    info = path.stat()
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_a_flipped_bit_is_named_and_repaired(place: Place, scion: Scion) -> None:
    made = place.make("made")
    path = made.folder / "file.txt"
    flip(path)
    code, printed, _ = scion("verify")
    assert code == 1
    assert f"{path}: expected {made.files['file.txt']['sha256']}, found " in printed
    assert "artifacts: 1, records: 1, read: 1.00 kB; problems: 1" in printed.splitlines()[-1]
    assert scion("verify", "--repair")[0] == 1
    assert scion("verify")[0] == 0
    assert "damaged: " in scion("ls")[1]
    assert place.make("made").content == made.content
    assert scion("verify")[0] == 0


def test_each_thing_that_can_be_wrong(place: Place, scion: Scion) -> None:
    folder = place.store.folder
    gone, bare, extra = place.make("gone"), place.make("bare"), place.make("extra")
    place.store.known.remove(gone.folder)
    place.store.record(bare.recipe).unlink()
    extra.folder.chmod(0o755)
    (extra.folder / "more").write_text("")
    edited = place.store.record(place.make("edited").recipe)
    edited.write_text(edited.read_text().replace('"edited"', '"changed"'))
    named = place.make("named")
    wrong = folder / "records" / f"{'0' * 64}.json"
    shutil.copy(place.store.record(named.recipe), wrong)
    missing = place.make("missing")
    missing.folder.chmod(0o755)
    (missing.folder / "file.txt").unlink()
    for name in ("stranger", "artifacts/wrong", "locks/other"):
        (folder / name).write_text("")
    code, printed, _ = scion("verify")
    assert code == 1
    for line in (
        f"{place.store.record(gone.recipe)}: its artifact is gone: {gone.content}",
        f"{bare.folder}: no record names it",
        f"{extra.folder}/more: not in the manifest",
        f"{edited}: the manifest's recipe digest is not that of its content",
        f"{wrong}: wrong name: it is the record of {named.recipe}",
        f"{missing.folder}/file.txt: missing",
        f"{folder}/stranger: not known",
        f"{folder}/artifacts/wrong: not known",
        f"{folder}/locks/other: not known",
    ):
        assert line in printed, line
    scion("verify", "--repair")
    left = scion("verify")[1].splitlines()[:-1]
    assert len(left) == 5, left
    assert all("not known" in line or "no record" in line for line in left)
    assert place.holds(named, extra, missing) == [True, False, False]


def test_a_store_that_was_just_made_is_sound(place: Place, scion: Scion) -> None:
    made = place.make("made")
    place.make("next", build=lambda draft: draft.link_all(made), inputs={"made": made})
    code, printed, _ = scion("verify")
    assert (code, len(printed.splitlines())) == (0, 1)
    # Two names of one file are read once.
    assert "read: 1.00 kB" in printed


# Showing


def test_ls_tells_who_shows_what_and_what_is_shared(place: Place, scion: Scion) -> None:
    first = place.make("first")

    def grow(draft: Draft) -> None:
        draft.link_all(first)
        (draft.folder / "more.txt").write_text("x" * 10)

    second = place.make("second", stage="grow", build=grow, inputs={"first": first})
    place.make("old", stage="old")
    old = place.make("new", stage="old")
    record = json.loads(scion("ls", "--json")[1])
    rows = {row["content"]: row for row in record["artifacts"]}
    assert rows[second.content]["size"] == 1010
    assert rows[second.content]["shared"] == rows[first.content]["shared"] == 1000
    assert rows[second.content]["stages"] == ["grow"]
    assert rows[second.content]["shown_by"] == [str(place.root / "one")]
    assert rows[old.content]["recipes"] == [old.recipe]
    table = scion("ls")[1].splitlines()
    assert len(table) == 5
    digits = second.content.removeprefix("sha256:")[:12]
    assert any(re.match(rf"{digits} +grow +one +1.01 kB +1.00 kB +\d{{4}}-", row) for row in table)
    assert sum(" nobody " in row for row in table) == 1


def test_du_counts_each_file_once(place: Place, scion: Scion) -> None:
    first = place.make("first")
    place.make("second", build=lambda draft: draft.link_all(first), inputs={"first": first})
    place.make("third")
    usage = json.loads(scion("du", "--json")[1])
    assert usage["artifacts"] == 2000
    assert usage["unreachable"] == usage["freed"] == 1000
    assert usage["work"] == usage["damaged"] == usage["elsewhere"] == 0
    assert "what prune would free" in scion("du")[1]


@pytest.mark.parametrize("command", ["ls", "du", "verify", "prune"])
def test_whoever_reads_may_have_had_enough(place: Place, command: str) -> None:
    old = place.make("old")
    place.make("new")
    if command == "verify":
        flip(old.folder / "file.txt")
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "scion.cli.main", "store", command]
    done = subprocess.run(
        [*words, "--store", str(place.store.folder)],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert "Error" not in done.stderr
    assert done.returncode == (1 if command == "verify" else 0)
    assert place.holds(old) == [command != "prune"]


# Refusals


def test_no_store_there(tmp_path: Path, scion: Scion) -> None:
    for folder in (tmp_path / "none", tmp_path):
        for command in ("ls", "du", "verify", "prune"):
            code, _, errors = scion(command, store=folder)
            assert code == 1
            check_refusal(errors, "there is no store", str(folder))
    assert not (tmp_path / "none").exists()


def test_another_format(place: Place, scion: Scion) -> None:
    write_json(place.store.folder / "scion-store.json", {"format": "scion-store/9"})
    code, _, errors = scion("prune")
    assert code == 1
    check_refusal(errors, "the store has another format", "scion-store/9")


def test_no_right_to_write(place: Place, scion: Scion, monkeypatch: pytest.MonkeyPatch) -> None:
    old = place.make("old")
    place.make("new")
    monkeypatch.setattr(os, "access", lambda *_: False)
    code, _, errors = scion("prune")
    assert code == 1
    check_refusal(errors, "the store can't be written")
    assert place.holds(old) == [True]
    assert scion("prune", "--dry-run")[0] == 0


def test_without_locks_nothing_is_removed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    old = place.make("old")
    place.make("new")
    monkeypatch.setattr("scion.artifacts.store.locks._lock", lambda *_: None)
    with pytest.raises(ScionError, match="in use"):
        housekeeping.prune(place.store, housekeeping.Rules(), dry_run=False, say=print)
    assert place.holds(old) == [True]


@pytest.mark.parametrize("size", ["much", "3 parsecs", "-1GB"])
def test_a_size_that_is_none(scion: Scion, size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scion("prune", f"--keep={size}")
    assert "200GB" in capsys.readouterr().err


def test_the_store_of_the_config_is_the_default(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    place.make("made")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scion", "store", "ls"])
    assert main() == 0
    place.store.folder.rename(tmp_path / "elsewhere")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/default.yaml").write_text("store: [elsewhere, 's3://bucket/x']\n")
    capsys.readouterr()
    assert main() == 0
    assert "demo" in capsys.readouterr().out


def test_help_teaches(scion: Scion, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("-h",), ("prune", "-h")):
        with pytest.raises(SystemExit):
            scion(*words)
        assert "root" in capsys.readouterr().out
