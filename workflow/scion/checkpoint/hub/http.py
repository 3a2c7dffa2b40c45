"""One request to the hub, repeated where that can help, and byte ranges that arrive whole.

Cut connections and the statuses 408, 429 and 5xx are tried again, `len(RETRY_SECONDS)` times
without progress; anything else, and the last failure, becomes a `ScionError`. The connections are
huggingface_hub's own session (proxies, certificates, HF_HUB_OFFLINE). The token goes to the hub's
own host alone: httpx drops it where a redirect leads to another one
(https://github.com/encode/httpx/blob/master/httpx/_client.py, `_redirect_headers`).

The hub answers for a large file with a redirect to a signed address elsewhere, good for some
minutes. Who reads several ranges of it hands in `addresses`, and is redirected once.
"""

import os
import time
from collections.abc import Callable, Generator, Iterator, MutableMapping
from contextlib import contextmanager
from typing import TypeVar

import httpx
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import (
    build_hf_headers,  # pyright: ignore[reportUnknownVariableType]
    get_session,
    hf_raise_for_status,
)

from scion.checkpoint.hub.errors import explain
from scion.checkpoint.hub.location import HubRepository
from scion.common.errors import UnreachableError

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Waits before the second try, the third, ...; after the last one the error stands."""
TIMEOUT_SECONDS = 30.0
"""Longest silence of the server in an answer."""

_LONGEST_WAIT_SECONDS = 60.0
_REACH_SECONDS = 5.0
_RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

_Answer = TypeVar("_Answer")


class Meter:
    """Counts what this process asks of the hub, whoever in it asks.

    Attributes:
        requests: HTTP requests so far; a redirect and a repeated try are one more each.
        bytes_moved: Bytes of content in the answers, as they were transferred.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.bytes_moved = 0

    @contextmanager
    def running(self) -> Generator[None]:
        """Count what is asked meanwhile; the blocks of one meter must not overlap."""
        requests, answers = list[httpx.Request](), list[httpx.Response]()
        hooks = get_session().event_hooks
        for kind, count in (("request", requests.append), ("response", answers.append)):
            hooks[kind].append(count)
        try:
            yield
        finally:
            for kind, count in (("request", requests.append), ("response", answers.append)):
                hooks[kind].remove(count)
            self.requests += len(requests)
            # Only now: when the hook is called, an answer's content is still to come.
            self.bytes_moved += sum(answer.num_bytes_downloaded for answer in answers)


def endpoint() -> str:
    """The hub's address, without a slash at its end."""
    # huggingface_hub reads HF_ENDPOINT only once, when it is imported.
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def hub_answers() -> bool:
    """Whether the hub can be reached at all, found out in seconds and without a second try."""
    try:
        get_session().head(endpoint(), timeout=_REACH_SECONDS)
    except (httpx.HTTPError, OfflineModeIsEnabled):
        return False
    return True


def retry(request: Callable[[], _Answer], repository: HubRepository) -> _Answer:
    """The result of `request`, tried again as the module says.

    Raises:
        ScionError: The hub refuses, or can't be reached.
    """
    failures = 0
    while True:
        try:
            return request()
        except (httpx.HTTPError, OfflineModeIsEnabled) as error:
            _wait_or_raise(error, failures, repository, None)
            failures += 1


def stream_range(
    repository: HubRepository,
    name: str,
    start: int,
    end: int,
    *,
    total: int | None,
    whole: bool = False,
    addresses: MutableMapping[str, str] | None = None,
    token: str | None = None,
) -> Iterator[bytes]:
    """The bytes [start, end) of a file, in chunks; a cut connection is taken up where it ended.

    Args:
        repository: Pinned.
        name: File in it.
        start: First byte.
        end: The byte after the last one.
        total: The file's size, if known; another size in the answer is an error.
        whole: Whether a server that ignores the range may send the file from its beginning.
        addresses: Where the hub sent earlier requests for a file to, by its name; kept up to date.
        token: Who asks; None: who is signed in.

    Raises:
        ScionError: The hub refuses, can't be reached, or sends another range.
    """
    position, failures = start, 0
    addresses = {} if addresses is None else addresses
    while position < end:
        address = addresses.get(name)
        try:
            for chunk in _stream_once(
                repository,
                name,
                position,
                end,
                total=total,
                whole=whole,
                addresses=addresses,
                token=token,
            ):
                position += len(chunk)
                failures = 0
                yield chunk
            if position < end:
                raise httpx.RemoteProtocolError(f"the answer ended {end - position} bytes early")
        except (httpx.HTTPError, OfflineModeIsEnabled) as error:
            addresses.pop(name, None)
            # What an address elsewhere answers is not the hub's word: it may have expired.
            if address is None or not isinstance(error, HfHubHTTPError):
                _wait_or_raise(error, failures, repository, name)
                failures += 1


def _stream_once(
    repository: HubRepository,
    name: str,
    start: int,
    end: int,
    *,
    total: int | None,
    whole: bool,
    addresses: MutableMapping[str, str],
    token: str | None,
) -> Iterator[bytes]:
    elsewhere = addresses.get(name)
    url = elsewhere or hf_hub_url(
        repository.name,
        name,
        repo_type=repository.kind,
        revision=repository.revision,
        endpoint=endpoint(),
    )
    # The token is the hub's alone.
    headers = build_hf_headers(library_name="scion", token=False if elsewhere else token)
    headers |= {"Accept-Encoding": "identity", "Range": f"bytes={start}-{end - 1}"}
    request = get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS)
    with request as response:
        hf_raise_for_status(response)
        if response.url.netloc != httpx.URL(endpoint()).netloc:
            addresses[name] = str(response.url)
        skipped = 0
        if whole and response.status_code == 200:
            skipped = start
        else:
            _check_range(response, f"{repository}: {name}", start=start, end=end, total=total)
        remaining = end - start
        for chunk in response.iter_bytes():
            cut = min(skipped, len(chunk))
            skipped -= cut
            piece = chunk[cut : cut + remaining]
            remaining -= len(piece)
            if piece:
                yield piece


def _check_range(
    response: httpx.Response, where: str, *, start: int, end: int, total: int | None
) -> None:
    """Refuse an answer that is not exactly the range [start, end) of a file of `total` bytes."""
    expected = f"bytes {start}-{end - 1}/{'*' if total is None else total}"
    content_range = response.headers.get("Content-Range", "none")
    matches = content_range == expected or (
        total is None and content_range.split("/")[0] == expected.split("/")[0]
    )
    if response.status_code != 206 or not matches:
        raise UnreachableError(
            "the server did not send the range that it was asked for",
            where=where,
            expected=f"status 206, Content-Range: {expected}",
            found=f"status {response.status_code}, Content-Range: {content_range}",
            hint="a mirror or proxy without range requests can't be used: unset HF_ENDPOINT, or "
            "download the repository and give its folder",
        )


def _wait_or_raise(
    error: Exception, failures: int, repository: HubRepository, name: str | None
) -> None:
    """Wait before the next try; raise a `ScionError` where another one can't help."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    transient = isinstance(error, httpx.TransportError) or (
        response is not None and response.status_code in _RETRIED_STATUSES
    )
    if not transient or failures >= len(RETRY_SECONDS):
        raise explain(error, repository, name=name, endpoint=endpoint()) from error
    wait = RETRY_SECONDS[failures]
    if response is not None:
        retry_after = response.headers.get("Retry-After", "")
        wait = max(wait, float(retry_after)) if retry_after.isdigit() else wait
    time.sleep(min(wait, _LONGEST_WAIT_SECONDS))
