"""Reading repositories of the Hugging Face hub: whole files, or only the byte ranges that count.

`huggingface_hub` names the files, keeps the token and makes the connections; the transfers are
done here and in `scion.checkpoint.hub.download`, because a release needs more than it promises: a
file counts only once its bytes hash to what the server's own listing says, a download over HTTP
that was cut is resumed by the next run too, and of a 50 GB donor only the ranges of its few MTP
tensors are moved.

The hub is the one that `HF_ENDPOINT` names, the token the one of `HF_TOKEN` or `hf auth login`
(`scion.checkpoint.hub.http` makes the requests).
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi
from huggingface_hub.hf_api import DatasetInfo, ModelInfo, RepoSibling

from scion.checkpoint.hub.download import Download, Progress, RemoteFile
from scion.checkpoint.hub.errors import refuse
from scion.checkpoint.hub.http import TIMEOUT_SECONDS, endpoint, retry, stream_range
from scion.checkpoint.hub.location import HubRepository, LocalFolder, parse_location
from scion.common.errors import ScionError
from scion.common.threads import unawaited_pool

__all__ = [
    "HubRepository",
    "LocalFolder",
    "Progress",
    "RangeReader",
    "RemoteFile",
    "at_commit",
    "download_files",
    "list_files",
    "parse_location",
    "read_range",
    "resolve_revision",
]

_FILES_AT_ONCE = 4


def resolve_revision(repository: HubRepository, *, token: str | None = None) -> str:
    """The full commit hash that the repository's revision (none: its default branch) has now.

    Args:
        repository: The repository.
        token: Who asks; None: who is signed in.
    """
    commit = _repository_info(repository, with_files=False, token=token).sha
    if commit is None:
        raise refuse(repository, expected="a commit hash in the hub's answer", found="none")
    return commit


def at_commit(repository: HubRepository) -> HubRepository:
    """The repository at the commit that it is pinned to, or that its revision has now."""
    if repository.is_pinned:
        return repository
    return repository.at(resolve_revision(repository))


def list_files(repository: HubRepository, *, token: str | None = None) -> dict[str, RemoteFile]:
    """All files of a pinned repository by name.

    Args:
        repository: The repository.
        token: Who asks; None: who is signed in.

    Raises:
        ScionError: Not pinned, not there, not allowed, or the hub can't be reached.
    """
    commit = repository.require_pinned()
    info = _repository_info(repository, with_files=True, token=token)
    if info.sha != commit:
        raise refuse(repository, expected=f"commit {commit}", found=f"commit {info.sha}")
    return {file.rfilename: _remote_file(repository, file) for file in info.siblings or []}


def _remote_file(repository: HubRepository, file: RepoSibling) -> RemoteFile:
    name = PurePosixPath(file.rfilename)
    if file.size is None or name.is_absolute() or ".." in name.parts:
        raise refuse(
            repository,
            expected="each file's size, and names that stay in the repository",
            found=f"{file.rfilename!r} of size {file.size}",
        )
    # Of a large file, the blob that git has is only the pointer to it.
    sha256 = file.lfs.sha256 if file.lfs else None
    blob = None if file.lfs else file.blob_id
    return RemoteFile(name=file.rfilename, size=file.size, sha256=sha256, git_blob=blob)


def _repository_info(
    repository: HubRepository, *, with_files: bool, token: str | None = None
) -> ModelInfo | DatasetInfo:
    api = HfApi(endpoint=endpoint(), library_name="scion", token=token)
    ask = api.model_info if repository.kind == "model" else api.dataset_info

    def request() -> ModelInfo | DatasetInfo:
        return ask(
            repository.name,
            revision=repository.revision,
            files_metadata=with_files,
            timeout=TIMEOUT_SECONDS,
        )

    try:
        return retry(request, repository)
    except (ValueError, KeyError, TypeError) as error:
        raise refuse(
            repository, expected=f"the hub's JSON from {endpoint()}", found=repr(error)
        ) from error


def download_files(
    repository: HubRepository,
    names: Iterable[str],
    folder: Path,
    *,
    listing: Mapping[str, RemoteFile] | None = None,
    progress: Progress | None = None,
) -> int:
    """Download files of a pinned repository into `folder`, under the same names, several at once.

    A file of the user's cache of the hub is taken from there. What the hub keeps by Xet comes
    through its own client, in chunks; everything else, and whatever Xet's client gives up, over
    HTTP. A file stands there under its name only once its size and digest are the ones that the
    server records. What a cut run has got of a file over HTTP stays in a hidden `.part` beside it,
    and the next run on the same folder goes on from there. A file that is there already and right
    is not moved.

    Args:
        repository: Where from.
        names: Which files.
        folder: Where to.
        listing: All files of the repository by name, as somebody has listed or locked them; with
            it, nothing is asked of the hub for files that are there. None: the hub is asked.
        progress: Told of what arrives.

    Returns:
        The number of bytes moved; of Xet's, as they came over the network.

    Raises:
        ScionError: Not pinned, no such file, wrong content (its bytes are removed), or one of the
            hub's refusals.
    """
    repository.require_pinned()
    listing = list_files(repository) if listing is None else listing
    wanted = [_find(repository, listing, name) for name in names]
    stop = threading.Event()

    def fetch(remote: RemoteFile) -> int:
        return Download(repository, remote, folder / remote.name, progress or _ignore, stop).run()

    with unawaited_pool(_FILES_AT_ONCE) as pool:
        try:
            return sum(pool.map(fetch, wanted))
        finally:
            # What still runs after a failure, or Ctrl-C, is not to go on for minutes.
            stop.set()


def _ignore(_name: str, _size: int) -> None:
    """The progress of somebody who does not ask for it."""


def _find(repository: HubRepository, listing: Mapping[str, RemoteFile], name: str) -> RemoteFile:
    if name not in listing:
        raise ScionError(
            "the repository has no such file",
            where=repository,
            expected=name,
            found=", ".join(sorted(listing)[:12]) + (", ..." if len(listing) > 12 else ""),
            hint="check the name and the commit on the repository's page",
        )
    return listing[name]


class RangeReader:
    """Reads byte ranges of a pinned repository's files, and counts what that moves.

    Several threads may read, each of a file of its own.

    Attributes:
        files: The repository's files by name.
        bytes_moved: Bytes of content that have been read so far.
    """

    def __init__(self, repository: HubRepository) -> None:
        """List the repository; see `list_files` for what can be raised."""
        self.repository = repository
        self.files = list_files(repository)
        self.bytes_moved = 0
        self._lock = threading.Lock()
        self._addresses: dict[str, str] = {}

    def stream(self, name: str, start: int, size: int) -> Iterator[bytes]:
        """The bytes [start, start + size) of file `name`, in chunks as they arrive.

        Raises:
            ScionError: No such file, the range is not in it, or one of the hub's refusals.
        """
        total = _find(self.repository, self.files, name).size
        if start < 0 or size < 0 or start + size > total:
            raise ScionError(
                "a range lies outside its file",
                where=f"{self.repository}: {name}",
                expected=f"bytes in 0..{total}",
                found=f"bytes {start}..{start + size}",
                hint="the file's header or index is wrong; check the repository with its owner",
            )
        end, whole = start + size, size == total
        for chunk in stream_range(
            self.repository,
            name,
            start,
            end,
            total=total,
            whole=whole,
            addresses=self._addresses,
        ):
            with self._lock:
                self.bytes_moved += len(chunk)
            yield chunk

    def read(self, name: str, start: int, size: int) -> bytes:
        """The bytes [start, start + size) of file `name`, all at once; see `stream`."""
        return b"".join(self.stream(name, start, size))


def read_range(
    repository: HubRepository, name: str, start: int, size: int, *, token: str | None = None
) -> bytes:
    """The bytes [start, start + size) of one file, without listing the repository first."""
    repository.require_pinned()
    return b"".join(stream_range(repository, name, start, start + size, total=None, token=token))
