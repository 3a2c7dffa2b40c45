"""What went wrong while a release was published, told as one `ScionError` each."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from huggingface_hub.errors import HfHubHTTPError

from scion.checkpoint.hub.errors import explain
from scion.checkpoint.hub.http import endpoint
from scion.checkpoint.hub.location import HubRepository
from scion.common.errors import ScionError, UnreachableError

FAILURES = (httpx.HTTPError, OSError, RuntimeError, ValueError)
"""What huggingface_hub and hf-xet raise; the client's own words for a fault are ValueErrors."""

_AGAIN = "run the same command again: what has arrived is not sent twice"
_QUOTA_WORDS = ("storage", "quota", "limit", "billing")


@dataclass(frozen=True)
class _Words:
    problem: str
    expected: str
    hint: str


def page_of(repository: HubRepository) -> str:
    """The address of a repository's page."""
    return f"{endpoint()}/{repository.name}"


def refusal(error: Exception, repository: HubRepository, *, doing: str, so_far: str) -> ScionError:
    """The error to show for a step that failed.

    Args:
        error: What was raised.
        repository: The repository that was written to.
        doing: The step, as in "while creating the repository".
        so_far: What that means for what is public, such as "nothing was published".
    """
    chain = list(_chain(error))
    answer = next((each for each in chain if isinstance(each, HfHubHTTPError)), None)
    broken = next((each for each in chain if isinstance(each, httpx.TransportError)), None)
    if answer is not None and (words := _words(answer, repository)) is not None:
        told = _found(answer)
    elif (known := answer or broken) is not None:
        plain = explain(known, repository, name=None, endpoint=endpoint())
        passing = answer is None or answer.response.status_code >= 500
        hint = _AGAIN if passing else plain.hint
        words, told = _Words(plain.problem, plain.expected, hint), plain.found
    else:
        told = "; ".join(dict.fromkeys(f"{type(each).__name__}: {each}" for each in chain))
        words = _Words(
            "the hub's client gave up",
            "an upload that ends",
            _AGAIN,
        )
    return UnreachableError(
        f"{words.problem} ({doing}); {so_far}",
        where=repository,
        expected=words.expected,
        found=told,
        hint=words.hint,
    )


def may_be_made(error: Exception) -> bool:
    """Whether a commit that failed so may be there all the same.

    Its answer was lost; the hub failed over it; or somebody has made another one, which may be of
    the same release.
    """
    answers = [each for each in _chain(error) if isinstance(each, HfHubHTTPError)]
    return all(
        each.response.status_code in (408, 412) or each.response.status_code >= 500
        for each in answers
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, each once."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__


def _found(error: HfHubHTTPError) -> str:
    message = error.response.headers.get("X-Error-Message")
    status = f"status {error.response.status_code}"
    return f"{status}: {message}" if message else f"{status}: {error.server_message or error}"


def _words(error: HfHubHTTPError, repository: HubRepository) -> _Words | None:
    """What an answer means that only those get who write; None for all others."""
    status, message = error.response.status_code, _found(error).lower()
    if status in (402, 403) and any(word in message for word in _QUOTA_WORDS):
        return _Words(
            "the account has no room for it",
            f"room for the release at {repository.name.split('/')[0]}",
            f"make room or change the plan in the account's settings, then {_AGAIN}",
        )
    match status:
        case 400:
            return _Words(
                "the hub does not take what was sent",
                "files and a card that the hub accepts",
                "see what it says; a card's header is checked at the hub alone",
            )
        case 403:
            return _Words(
                "the token may not write there",
                f"a token with the right to write to {repository.name}",
                "make one in the account's settings and set HF_TOKEN",
            )
        case 409:
            return _Words(
                "a repository of that name exists, and this token may not see it",
                f"a name that is free, or a token that may read and write {repository.name}",
                "check HF_TOKEN, or give another name",
            )
        case 412:
            return _Words(
                "another commit was made while this one was prepared",
                "the commit that was looked at to be the last",
                f"see what it changed, {page_of(repository)}/commits/main; then {_AGAIN}",
            )
        case _:
            return None
