import os
import stat
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from scion.common.files import (
    atomic_file,
    copy_file,
    copy_range,
    link_or_copy,
    read_regular,
    replace_link,
    write_json,
)


def test_a_file_appears_whole_with_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "folder/file"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    usual = tmp_path / "usual"
    usual.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_nothing_sets_the_mask_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda _: pytest.fail("a thread's files would be open"))
        write_json(tmp_path / "file", {})
    finally:
        monkeypatch.undo()
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def _write_often(path: Path) -> None:
    for number in range(200):
        write_json(path, {"number": number})


def test_writers_of_one_file_leave_each_other_alone(tmp_path: Path) -> None:
    # What was left by one that was killed each of them removes, and nothing else.
    (tmp_path / ".file.01234567").touch()
    with ProcessPoolExecutor(4, get_context("fork")) as pool:
        list(pool.map(_write_often, [tmp_path / "file"] * 4))
    assert os.listdir(tmp_path) == ["file"]


def test_json_keeps_its_order_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": "ä", "a": [1]})
    assert (tmp_path / "x.json").read_text() == '{\n  "b": "ä",\n  "a": [\n    1\n  ]\n}\n'


def test_a_link_is_followed_to_the_file_itself(tmp_path: Path) -> None:
    blob, link = tmp_path / "blob", tmp_path / "link"
    blob.write_bytes(b"x")
    link.symlink_to(blob)
    link_or_copy(link, tmp_path / "new/target")
    target = tmp_path / "new/target"
    assert not target.is_symlink()
    assert target.stat().st_ino == blob.stat().st_ino


def test_where_links_cannot_cross_the_bytes_are_copied(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    source = memory / f"scion-test-{os.getpid()}"
    try:
        source.write_bytes(b"x" * 100_000)
        link_or_copy(source, tmp_path / "target")
    finally:
        source.unlink()
    assert (tmp_path / "target").read_bytes() == b"x" * 100_000


def test_a_link_is_replaced_in_one_step_by_many_at_once(tmp_path: Path) -> None:
    link = tmp_path / "last.log"
    link.write_text("a copy, from where there were no links")
    names = [f"run-{number}.log" for number in range(8)]

    def often(name: str) -> set[str]:
        seen = set[str]()
        for _ in range(200):
            replace_link(name, link)
            # There is no moment without one.
            seen.add(os.readlink(link))
        return seen

    with ThreadPoolExecutor(len(names)) as pool:
        seen = set[str]().union(*pool.map(often, names))
    assert seen == set(names)
    assert list(tmp_path.iterdir()) == [link]


def test_what_a_killed_process_left_of_a_link_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "last.log"
    with monkeypatch.context() as patch:
        # As if it were killed between the two steps: nothing more is done.
        patch.setattr(Path, "replace", lambda self, target: None)
        replace_link("run-1.log", link)
    assert not link.is_symlink()
    replace_link("run-1.log", link)
    assert os.readlink(link) == "run-1.log"
    assert list(tmp_path.iterdir()) == [link]


def test_many_may_make_one_link(tmp_path: Path) -> None:
    link = tmp_path / "last.log"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: replace_link("run.log", link), range(800)))
    assert os.readlink(link) == "run.log"
    assert list(tmp_path.iterdir()) == [link]


def test_a_link_never_takes_a_folder_s_place(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_link("elsewhere", folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_copies_and_ranges_are_the_same_bytes(tmp_path: Path) -> None:
    data = os.urandom(200_000)
    (tmp_path / "source").write_bytes(data)
    copy_file(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    with (tmp_path / "source").open("rb") as reader, (tmp_path / "mixed").open("wb") as writer:
        writer.write(b"head")
        copy_range(reader, writer, offset=1000, size=5000)
        writer.write(b"middle")
        copy_range(reader, writer, offset=0, size=10)
    assert (tmp_path / "mixed").read_bytes() == b"head" + data[1000:6000] + b"middle" + data[:10]


def test_a_range_past_the_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"abc")
    with (
        (tmp_path / "source").open("rb") as reader,
        (tmp_path / "target").open("wb") as writer,
        pytest.raises(EOFError, match="2 bytes early"),
    ):
        copy_range(reader, writer, offset=1, size=4)


def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", limit=4) == b"text"
    with pytest.raises(ValueError, match="4 bytes, more than the 3"):
        read_regular(tmp_path / "file", limit=3)
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(OSError, match=f"no regular file, but {words}"):
            read_regular(path)
