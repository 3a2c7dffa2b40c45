"""What is said of files that others link or write to while they are read."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scion.artifacts.store import known_files
from scion.artifacts.store.known_files import KnownFiles
from scion.common.digest import digest_file
from scion.common.errors import ScionError

Meanwhile = Callable[[Callable[[Path], object]], list[Path]]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Lets something happen to a file each time that it was just read; gives the reads."""

    def set_up(happens: Callable[[Path], object]) -> list[Path]:
        reads: list[Path] = []
        read = known_files._read

        def read_and_more(path: Path, **options: Any) -> Any:
            found = read(path, **options)
            reads.append(path)
            happens(path)
            return found

        monkeypatch.setattr(known_files, "_read", read_and_more)
        return reads

    return set_up


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def known(tmp_path: Path) -> KnownFiles:
    return KnownFiles(tmp_path / "known")


def test_a_file_that_another_process_links_is_read_again(
    file: Path, known: KnownFiles, meanwhile: Meanwhile
) -> None:
    def link_once(path: Path) -> None:
        if not path.with_suffix(".link").exists():
            os.link(path, path.with_suffix(".link"))

    reads = meanwhile(link_once)
    found = known.digest(file)
    assert reads == [file, file]
    assert found.sha256 == digest_file(file)
    assert known.get(file) == found


def test_a_file_whose_status_never_rests_is_refused(
    file: Path, known: KnownFiles, meanwhile: Meanwhile
) -> None:
    reads = meanwhile(lambda path: os.link(path, path.with_name(f"link-{len(reads)}")))
    with pytest.raises(ScionError, match="changed while it was read"):
        known.digest(file)
    assert len(reads) > 1
    assert known.get(file) is None


@pytest.mark.parametrize("content", [b"CONTENT", b"longer content"], ids=["as long", "longer"])
def test_a_file_that_is_written_to_is_refused_at_once(
    file: Path, known: KnownFiles, meanwhile: Meanwhile, content: bytes
) -> None:
    reads = meanwhile(lambda path: path.write_bytes(content))
    with pytest.raises(ScionError, match="changed while it was read") as caught:
        known.digest(file)
    assert caught.value.where == str(file)
    assert reads == [file]
    assert known.get(file) is None


def test_a_file_that_is_edited_under_its_old_date_is_what_it_became(
    file: Path, known: KnownFiles, meanwhile: Meanwhile
) -> None:
    before = file.stat()

    def edit(path: Path) -> None:
        if len(reads) == 1:
            path.write_bytes(b"CONTENT")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    reads = meanwhile(edit)
    assert known.digest(file).sha256 == digest_file(file)
    assert file.read_bytes() == b"CONTENT"


def interrupt(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def linked_and_interrupted(source: Path, target: Path) -> None:
    os.link(source, target)
    interrupt()


def test_a_file_stays_known_when_an_interrupt_comes_after_its_link(
    file: Path, known: KnownFiles
) -> None:
    digest = known.digest(file)
    with pytest.raises(KeyboardInterrupt):
        known.place(file, file.with_name("link"), linked_and_interrupted)
    assert known.get(file) == digest


def test_a_file_stays_known_when_an_interrupt_comes_while_it_is_noted(
    file: Path, known: KnownFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = known.digest(file)
    folder = file.with_name("folder")
    folder.mkdir()
    write = known_files.to_json

    def interrupt_and_write(value: Any) -> bytes:
        interrupt()
        return write(value)

    monkeypatch.setattr(known_files, "to_json", interrupt_and_write)
    with pytest.raises(KeyboardInterrupt):
        known.place(file, folder / "link")
    assert known.get(file) == digest
    with pytest.raises(KeyboardInterrupt):
        known.remove(folder)
    assert not (folder / "link").exists()
    assert known.get(file) == digest
