"""Objects below a URL: reading, streaming and writing them through fsspec, and saying what failed.

A store elsewhere needs no more of a service than this. Nothing is asked, and fsspec is not even
imported, before an object is needed: runs without stores elsewhere do not pay for them.

An object appears whole or not at all. Services for objects see to that themselves; anywhere else it
is written under another name and moved.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from scion.common.errors import ScionError

RETRY_SECONDS = (1.0, 4.0, 15.0)
"""Waits before a range is asked for again; after the last one without progress the error stands."""

# Bytes of one request, and how many requests run side by side. All are in memory at once.
_RANGE = 8 << 20
_SIDE_BY_SIDE = 8
# What is read at once, a record or a mark, is smaller than that.
_LARGEST_READ = 64 << 20
# Services where an upload that was cut leaves nothing to be seen.
_APPEAR_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
# s3fs repeats a request five times, and botocore each of these five times, with waits: of a server
# that hangs up nobody would hear for minutes.
_S3_TRIES = 2
_S3_CONFIG = {"retries": {"mode": "standard", "total_max_attempts": 4}}
_VARIABLES = "AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"

_Answer = TypeVar("_Answer")


class Objects:
    """The objects whose addresses begin with a URL.

    Args:
        url: Of a kind that fsspec knows, such as s3://bucket/prefix.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def where(self, name: str) -> str:
        """The address of an object, for people."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """A small object, or None if it is not there."""
        # A range, for without one s3fs asks for the size first, and for a listing.
        return self._ask(name, lambda files, path: files.cat_file(path, start=0, end=_LARGEST_READ))

    def size(self, name: str) -> int | None:
        """The size of an object in bytes, or None if it is not there."""
        found = self._ask(name, lambda files, path: files.info(path))
        return None if found is None or found["type"] != "file" else int(found["size"])

    def stream(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """The bytes [start, end) of an object, in order, several ranges under way at once.

        A connection that is cut is taken up where it ended, `len(RETRY_SECONDS)` times without
        progress.

        Raises:
            ScionError: No such object, no right to read it, no answer, or one of another range.
        """
        failures = 0
        while start < end:
            error: Exception | None = None
            for wanted, piece in self._ranges(name, start, end):
                if isinstance(piece, Exception):
                    error = piece
                    break
                if len(piece) > wanted:
                    raise self._not_the_range(name, wanted, len(piece))
                start, failures = start + len(piece), 0 if piece else failures
                yield piece
                if len(piece) < wanted:
                    error = EOFError(f"the answer ended {wanted - len(piece)} bytes early")
                    break
            if error is not None:
                final = isinstance(error, FileNotFoundError | PermissionError)
                if final or failures >= len(RETRY_SECONDS):
                    raise explain(error, self.where(name)) from error
                time.sleep(RETRY_SECONDS[failures])
                failures += 1

    def write(self, name: str, raw: bytes) -> None:
        """Write a small object, in place of what is there.

        Raises:
            ScionError: No such bucket, no right to write, or no answer.
        """
        self._put(name, lambda files, path: files.pipe_file(path, raw))

    def upload(self, source: Path, name: str) -> None:
        """Write a file's bytes, in place of what is there.

        Raises:
            ScionError: As `write`.
        """
        self._put(name, lambda files, path: files.put_file(str(source), path))

    def holds_folder(self, name: str) -> bool:
        """Whether something on this machine has a folder of this name; nobody else is asked."""
        return self._protocol == "file" and bool(
            self._ask(name, lambda files, path: files.isdir(path))
        )

    @cached_property
    def _backend(self) -> tuple[Any, str]:
        """What fsspec has for the URL, and the URL's path as that names it."""
        # Half a second that runs without stores elsewhere need not pay.
        from fsspec.core import url_to_fs

        s3 = self._protocol in ("s3", "s3a")
        options = {"config_kwargs": _S3_CONFIG} if s3 else {}
        with _explained(self.url):
            # Another process may add to it at any time.
            files, path = url_to_fs(
                self.url, use_listings_cache=False, skip_instance_cache=True, **options
            )
        if s3:
            files.retries = _S3_TRIES
        return files, path

    @property
    def _protocol(self) -> str:
        return self.url.partition("://")[0] if "://" in self.url else "file"

    def _ask(self, name: str, ask: Callable[[Any, str], _Answer]) -> _Answer | None:
        """What a request about an object gives, None if it is not there."""
        files, root = self._backend
        with _explained(self.where(name)):
            try:
                return ask(files, f"{root}/{name}")
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise
                return None

    def _ranges(
        self, name: str, start: int, end: int
    ) -> list[tuple[int, bytes]] | list[tuple[int, Exception]]:
        """Bytes or an error for each of the next ranges, with the number of bytes asked for."""
        files, root = self._backend
        starts = list(range(start, min(end, start + _SIDE_BY_SIDE * _RANGE), _RANGE))
        ends = [min(end, each + _RANGE) for each in starts]
        paths = [f"{root}/{name}"] * len(starts)
        with _explained(self.where(name)):
            pieces = files.cat_ranges(paths, starts, ends, on_error="return")
        sizes = [last - first for first, last in zip(starts, ends, strict=True)]
        return list(zip(sizes, pieces, strict=True))

    def _put(self, name: str, put: Callable[[Any, str], object]) -> None:
        files, root = self._backend
        path = f"{root}/{name}"
        with _explained(self.where(name), writing=True):
            if self._protocol in _APPEAR_WHOLE:
                # No folders are made: to s3fs the first of them is the bucket.
                put(files, path)
                return
            folder, _, last = path.rpartition("/")
            part = f"{folder}/.{last}.{uuid4().hex[:8]}.part"
            files.makedirs(folder, exist_ok=True)
            try:
                put(files, part)
                files.mv(part, path)
            except BaseException:
                if files.exists(part):
                    files.rm_file(part)
                raise

    def _not_the_range(self, name: str, wanted: int, found: int) -> ScionError:
        return ScionError(
            "a store elsewhere did not send the range that it was asked for",
            where=self.where(name),
            expected=f"{wanted} bytes",
            found=f"{found} bytes",
            hint="a service or proxy without range requests can't be used",
        )


@contextmanager
def _explained(where: str, *, writing: bool = False) -> Generator[None]:
    """Tell as a `ScionError` whatever a service's library raises; each has its own exceptions."""
    try:
        yield
    except ScionError:
        raise
    except Exception as error:
        raise explain(error, where, writing=writing) from error


def explain(error: Exception, where: str, *, writing: bool = False) -> ScionError:
    """The error to show for a request that failed.

    Args:
        error: What fsspec, or the library below it, raised.
        where: The address that was asked for.
        writing: Whether it was to be written.
    """
    problem, expected, hint = _advice(error, writing=writing)
    found = str(error) or type(error).__name__
    return ScionError(
        problem,
        where=where,
        expected=expected,
        found=found if _code(error) in (None, found) else f"{found} ({_code(error)})",
        hint=hint,
    )


def _advice(error: Exception, *, writing: bool) -> tuple[str, str, str]:
    """What is wrong, what would have been right, and what to do."""
    names = {each.__name__ for each in type(error).__mro__}
    if names & {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}:
        return (
            "there are no credentials for a store elsewhere",
            "a key that the service knows",
            f"set {_VARIABLES} where the workflow is run",
        )
    if isinstance(error, PermissionError):
        return (
            f"a store elsewhere may not be {'written' if writing else 'read'} by this key",
            f"the right to {'write' if writing else 'read and to list'}",
            "put ?readonly behind the location, under `store` in the config, if nothing is to be "
            f"added to it; otherwise check the key's rights and {_VARIABLES}"
            if writing
            else f"check the key's rights, and {_VARIABLES}",
        )
    if isinstance(error, FileNotFoundError):
        bucket = _code(error) == "NoSuchBucket"
        return (
            "there is no such bucket" if bucket else "a store elsewhere lacks an object",
            "a bucket that exists" if bucket else "every object that a record names",
            "make the bucket, or correct the location under `store` in the config; "
            "AWS_ENDPOINT_URL says which service is asked"
            if bucket
            else "run where the artifact was made: that adds what is missing; or remove the record",
        )
    if isinstance(error, ImportError | ValueError) and not hasattr(error, "response"):
        return (
            "a store elsewhere has a location that can't be used",
            "a folder, or an address such as s3://bucket/prefix",
            "correct the location under `store` in the config, and AWS_ENDPOINT_URL",
        )
    return (
        "a store elsewhere can't be reached, or does not answer as it should",
        "the answer of the service",
        "check the network and AWS_ENDPOINT_URL, and run again: what was made or brought here is "
        "kept, and the run goes on from there",
    )


def _code(error: BaseException | None) -> str | None:
    """What S3 calls an error, which s3fs tells only by what raised its own."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
        error = error.__cause__
    return None
