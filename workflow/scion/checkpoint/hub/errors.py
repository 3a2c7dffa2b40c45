"""What went wrong between Scion and the hub, told as one `ScionError` each."""

from dataclasses import dataclass

from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from scion.checkpoint.hub.location import HubRepository
from scion.common.errors import UnreachableError

_LOGIN = "hf auth login (or set HF_TOKEN)"


@dataclass(frozen=True)
class _Advice:
    problem: str
    expected: str
    hint: str


def refuse(repository: HubRepository, *, expected: str, found: str) -> UnreachableError:
    """The error for an answer that is not the hub's, or contradicts itself."""
    return UnreachableError(
        "the hub's answer can't be used",
        where=repository,
        expected=expected,
        found=found,
        hint="check that HF_ENDPOINT names a Hugging Face hub, and that no proxy answers for it",
    )


def explain(
    error: Exception, repository: HubRepository, *, name: str | None, endpoint: str
) -> UnreachableError:
    """The error to show for a failed request.

    Args:
        error: What huggingface_hub or httpx raised.
        repository: The repository that was asked for.
        name: The file in it, if one was.
        endpoint: The hub's address.
    """
    advice = _advice(error, repository, name=name, endpoint=endpoint)
    return UnreachableError(
        advice.problem,
        where=repository if name is None else f"{repository}: {name}",
        expected=advice.expected,
        found=_found(error),
        hint=advice.hint,
    )


def _found(error: Exception) -> str:
    if isinstance(error, HfHubHTTPError):
        status = f"status {error.response.status_code}"
        message = error.response.headers.get("X-Error-Message")
        return f"{status}: {message}" if message else status
    return str(error) or type(error).__name__


def _advice(
    error: Exception, repository: HubRepository, *, name: str | None, endpoint: str
) -> _Advice:
    page = str(repository.at("")).removesuffix("@").replace("hf:/", endpoint, 1)
    match error:
        case OfflineModeIsEnabled():
            return _Advice(
                "the hub is switched off by HF_HUB_OFFLINE",
                "leave to reach the hub",
                "unset HF_HUB_OFFLINE, or give a local folder",
            )
        case GatedRepoError():
            return _Advice(
                "the repository is gated, and this account has no access",
                "an account that has accepted the repository's terms",
                f"accept them at {page}, then: {_LOGIN}",
            )
        case DisabledRepoError():
            return _Advice(
                "the hub has disabled the repository",
                "a repository that can be read",
                f"see {page}; another copy may be given as a local folder",
            )
        case RevisionNotFoundError():
            return _Advice(
                "the repository has no such revision",
                f"revision {repository.revision}",
                f"see the commits at {page}/commits/main; a branch becomes a commit by: "
                "scion pin CONFIG_FILE",
            )
        case EntryNotFoundError():
            return _Advice(
                "the repository has no such file at that commit",
                f"file {name}",
                f"see the files at {page}/tree/{repository.revision}",
            )
        case RepositoryNotFoundError():
            return _Advice(
                "the repository does not exist, or this account may not see it",
                f"a {repository.kind} named {repository.name}",
                f"check the name at {page}; if it is private: {_LOGIN}",
            )
        case HfHubHTTPError():
            return _advice_on_status(error.response.status_code, repository, name)
        case _:
            return _Advice(
                "the hub can't be reached",
                f"an answer from {endpoint}",
                "check the network and HF_ENDPOINT, then run the same command again; over HTTP a "
                "download goes on where it stopped",
            )


def _advice_on_status(status: int, repository: HubRepository, name: str | None) -> _Advice:
    if status in (401, 403):
        return _Advice(
            "the hub refuses the token, or asks for one; so it does for names it does not have",
            f"a token that may read the {repository.kind} {repository.name}",
            f"check the name, then: {_LOGIN}",
        )
    if status == 404:
        return _Advice(
            "the hub does not have what was asked for",
            name or f"a {repository.kind} named {repository.name}",
            "check the name and the revision on the repository's page",
        )
    if status == 416:
        return _Advice(
            "a file on the hub is shorter than the range asked of it",
            f"{name} to hold the range",
            "the repository's index or a header is wrong; check it with its owner",
        )
    if status == 429:
        return _Advice(
            "the hub limits how often it may be asked",
            "an answer within the tries that Scion makes",
            f"wait some minutes; signed in, the limit is higher: {_LOGIN}",
        )
    return _Advice(
        "the hub failed to answer",
        "status 200 or 206",
        "run the same command again later; over HTTP a download goes on where it stopped",
    )
