"""One whole file from the hub: out of the user's cache, by Xet, or over HTTP.

huggingface_hub's own download keeps nothing of a file that was cut off, so that a shard of
gigabytes over a plain connection is done here: what has arrived waits beside the target, and the
next run goes on from there. What the hub keeps by Xet is left to the hub's client, which fetches
chunks over several connections.
"""

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.utils import tqdm as hub_bar

from scion.checkpoint.hub.http import TIMEOUT_SECONDS, endpoint, retry, stream_range
from scion.checkpoint.hub.location import HubRepository
from scion.common.digest import digest_file, git_blob, read_chunks
from scion.common.errors import ScionError
from scion.common.files import reflink_or_link

Progress = Callable[[str, int], None]
"""Called with a file's name and the number of its bytes that have just arrived, by any thread."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, as the server's listing records it.

    Attributes:
        name: Path in the repository.
        size: Bytes.
        sha256: Hex digest of the content; the server knows it of large files only.
        git_blob: Hex hash of git's blob object; None where the server gives none.
    """

    name: str
    size: int
    sha256: str | None
    git_blob: str | None


class StoppedError(Exception):
    """Another file's download has failed, or the run was interrupted."""


@dataclass(frozen=True)
class Download:
    """The download of one file.

    Attributes:
        repository: Where from; pinned.
        remote: The file, as the server lists it.
        target: Where to.
        progress: Told of what arrives.
        stop: Set by whoever wants it to end early.
    """

    repository: HubRepository
    remote: RemoteFile
    target: Path
    progress: Progress
    stop: threading.Event

    def run(self) -> int:
        """Fetch the file, unless it is there.

        Returns:
            The number of bytes moved.

        Raises:
            ScionError: Wrong content (its bytes are removed), or one of the hub's refusals.
            StoppedError: It was told to stop.
        """
        if self.target.exists() and difference(self.remote, self.target) is None:
            return 0
        self._check_stop()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        identity = self.remote.sha256 or self.remote.git_blob or self.repository.require_pinned()
        part = self.target.with_name(f".{self.target.name}.{identity[:12]}.part")
        if self._from_cache(part):
            moved = 0
        elif (by_xet := self._by_xet(part)) is not None:
            moved = by_xet
        else:
            moved = self._over_http(part)
        if different := difference(self.remote, part):
            part.unlink()
            expected, found = different
            raise ScionError(
                "a downloaded file is not what the hub records; it was removed",
                where=f"{self.repository}: {self.remote.name}",
                expected=expected,
                found=found,
                hint="run the same command again; if it stays so, the server or a proxy alters "
                "files",
            )
        os.replace(part, self.target)
        # What a run that was killed has left.
        shutil.rmtree(_xet_folder(part), ignore_errors=True)
        return moved

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StoppedError(self.remote.name)

    def _from_cache(self, part: Path) -> bool:
        """Whether the user's cache of the hub has the file as it is recorded; then it is linked."""
        cached = try_to_load_from_cache(
            self.repository.name,
            self.remote.name,
            revision=self.repository.revision,
            repo_type=self.repository.kind,
        )
        if not isinstance(cached, str) or difference(self.remote, Path(cached)) is not None:
            return False
        part.unlink(missing_ok=True)
        reflink_or_link(Path(cached), part)
        self.progress(self.remote.name, self.remote.size)
        return True

    def _by_xet(self, part: Path) -> int | None:
        """The bytes that came over the network; None where the file does not come by Xet."""
        if self.remote.sha256 is None or part.exists() or not _has_xet():
            return None
        url = hf_hub_url(
            self.repository.name,
            self.remote.name,
            repo_type=self.repository.kind,
            revision=self.repository.revision,
            endpoint=endpoint(),
        )
        found = retry(
            lambda: get_hf_file_metadata(url, timeout=TIMEOUT_SECONDS, endpoint=endpoint()),
            self.repository,
        )
        if found.xet_file_data is None:
            return None
        # Of its own, for the client leaves notes beside what it fetches.
        folder = _xet_folder(part)
        told = _told(lambda size: self.progress(self.remote.name, size), self.stop)
        try:
            fetched = hf_hub_download(
                self.repository.name,
                self.remote.name,
                repo_type=self.repository.kind,
                revision=self.repository.revision,
                local_dir=folder,
                # The user's was looked into, and what lies there is not as it is recorded.
                cache_dir=folder / "cache",
                endpoint=endpoint(),
                library_name="scion",
                tqdm_class=told,
            )
            os.replace(fetched, part)
        except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            self._check_stop()
            print(
                f"{self.remote.name}: Xet's client gave up ({error}); over HTTP instead",
                file=sys.stderr,
            )
            return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return told.transferred

    def _over_http(self, part: Path) -> int:
        with part.open("ab") as file:
            start = file.tell()
            if start > self.remote.size:
                start = file.truncate(0)
            for chunk in stream_range(
                self.repository,
                self.remote.name,
                start,
                self.remote.size,
                total=self.remote.size,
                whole=True,
            ):
                self._check_stop()
                file.write(chunk)
                self.progress(self.remote.name, len(chunk))
            file.flush()
            os.fsync(file.fileno())
        return self.remote.size - start


def _xet_folder(part: Path) -> Path:
    return part.with_name(f"{part.name}.xet")


def _has_xet() -> bool:
    """Whether the hub's client can use Xet here, and may."""
    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def _told(progress: Callable[[int], None], stop: threading.Event) -> Any:
    """The class of a bar that draws nothing, and tells what the hub's client tells bars."""

    class Told(hub_bar):  # pyright: ignore[reportUntypedBaseClass]
        transferred = 0

        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **{**named, "disable": True})

        def update(self, n: float | None = 1) -> None:
            """Bytes that were written."""
            if stop.is_set():
                raise StoppedError("stopped")
            progress(int(n or 0))

        def update_transfer(self, n: float) -> None:
            """Bytes that came over the network."""
            Told.transferred += int(n)

        def set_transfer_postfix_str(self, *_args: Any, **_named: Any) -> None:
            """How fast they come."""

    return Told


def difference(remote: RemoteFile, path: Path) -> tuple[str, str] | None:
    """What the server records and what `path` has instead; None if they agree."""
    size = path.stat().st_size
    if size != remote.size:
        return f"{remote.size} bytes", f"{size} bytes"
    if remote.sha256 is not None:
        digest = digest_file(path)
        return None if digest == remote.sha256 else (f"SHA-256 {remote.sha256}", digest)
    if remote.git_blob is not None:
        blob = git_blob(size, read_chunks(path))
        return None if blob == remote.git_blob else (f"git blob {remote.git_blob}", blob)
    return None
