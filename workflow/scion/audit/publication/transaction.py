"""Publishing: one commit that brings all of a release, or none of it.

A repository that is not there is created private: a draft, to look at before anybody sees it. One
that others can see gets a pull request, or, where that is asked for, the commit itself. `public`
opens a private repository once what it holds was compared with the audit.

`huggingface_hub.upload_folder` splits large folders into several commits; here there is one
`create_commit`, with the commit that was looked at as its parent, so that the hub refuses it if
another was made meanwhile. (A pull request begins at that parent; the hub merges it or says what is
in its way.) Large files travel before the commit, by Xet or Git LFS; they become part of the
repository by the commit alone. The hub has each file's digest, so only what changed is sent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from scion.artifacts.manifest import MANIFEST, check_manifest
from scion.artifacts.release_layout import SEALED
from scion.audit.publication.audited import AuditedRelease, require_as_audited
from scion.audit.publication.changes import Changes, is_same
from scion.audit.publication.refusals import FAILURES, may_be_made, page_of, refusal
from scion.checkpoint.hub.client import RemoteFile, list_files, read_range, resolve_revision
from scion.checkpoint.hub.http import TIMEOUT_SECONDS, endpoint, retry
from scion.checkpoint.hub.location import HubRepository
from scion.checkpoint.shards import parse_object
from scion.common.bounded_json import MAX_TEXT_BYTES
from scion.common.errors import ScionError
from scion.common.progress import doing

NOTHING = "nothing was published"
_GITIGNORE = ".gitignore"

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class PublishOptions:
    """How to publish.

    Attributes:
        to_main: Commit to `main` of a repository that others can see, too.
        public: Let everybody see a repository that is private, once all is there.
        replace: Remove files that no release there has listed.
        collection: Title of the owner's collection that the repository is added to; None: none.
    """

    to_main: bool = False
    public: bool = False
    replace: bool = False
    collection: str | None = None


@dataclass(frozen=True)
class RepositoryState:
    """A repository before it is written to.

    Attributes:
        repository: At the last commit of `main`; without a revision where it is not there.
        private: Whether only its owner sees it; so will be one that is to be created.
        files: By name.
        earlier: The names that the manifest of a release there lists; None where there is none.
    """

    repository: HubRepository
    private: bool = True
    files: dict[str, RemoteFile] = field(default_factory=dict[str, RemoteFile])
    earlier: frozenset[str] | None = None

    @property
    def exists(self) -> bool:
        """Whether there is one that the token may see."""
        return self.repository.revision is not None


@dataclass(frozen=True)
class Publication:
    """What publishing will do.

    Attributes:
        release: What is published.
        remote: Where to.
        changes: File by file.
        options: How.
    """

    release: AuditedRelease
    remote: RepositoryState
    changes: Changes
    options: PublishOptions

    @property
    def as_pull_request(self) -> bool:
        """Whether the commit is only proposed."""
        return self.remote.exists and not self.remote.private and not self.options.to_main

    @property
    def is_needed(self) -> bool:
        """Whether the repository is anything but the release already."""
        return bool(self.changes.sent or self.changes.removed)

    def lines(self) -> list[str]:
        """What would happen, for people."""
        where = self.remote.repository
        if not self.remote.exists:
            first = f"{where}: new, or not visible to this token; would be created, private"
        elif not self.is_needed:
            first = f"{where}: has all of it"
        elif self.as_pull_request:
            first = f"{where}: public; a pull request would be opened"
        else:
            seen = "private" if self.remote.private else "public"
            first = f"{where}: {seen}; one commit to main"
        told = [first, *self.changes.lines(self.release)]
        if self.options.public and self.remote.private:
            told.append("then everybody may see it, and its earlier commits")
        if self.options.collection and not (self.is_needed and self.as_pull_request):
            told.append(f"then it is added to the collection {self.options.collection!r}")
        return told


class Publisher:
    """Publishes to one repository.

    Args:
        repository: A model's, without a revision.

    Raises:
        ScionError: It is no model's, has a revision, or there is no token.
    """

    def __init__(self, repository: HubRepository) -> None:
        repository.require_model()
        if repository.revision is not None:
            raise ScionError(
                "a release is published to a repository, not to one of its commits",
                where=repository,
                expected=f"hf://{repository.name}",
                found=f"the revision {repository.revision}",
                hint="leave the revision out: the commit goes to main, or to a pull request",
            )
        token = get_token()
        if token is None:
            raise ScionError(
                "there is no token to publish with",
                where=repository,
                expected="the environment variable HF_TOKEN, or a login",
                found="neither",
                hint="make a token with the right to write in the account's settings, then: "
                "hf auth login (or set HF_TOKEN)",
            )
        if not token.isascii():
            raise ScionError(
                "the token is none of the hub's",
                where=repository,
                expected="letters and digits",
                found="other characters",
                hint="copy it anew from the account's settings, and set HF_TOKEN",
            )
        self._repository, self._token = repository, token
        # By hand: HF_HUB_DISABLE_IMPLICIT_TOKEN would leave it out.
        self._api = HfApi(endpoint=endpoint(), token=token, library_name="scion")

    def plan(self, release: AuditedRelease, options: PublishOptions) -> Publication:
        """Look at the repository.

        Raises:
            ScionError: It can't be read, or holds what publishing would not respect.
        """
        remote = self._look()
        changes = Changes.between(release, remote.files, remote.earlier)
        if _GITIGNORE in remote.files:
            raise ScionError(
                f"the repository has a {_GITIGNORE}, by which the hub leaves files out",
                where=remote.repository,
                expected=f"a repository without a {_GITIGNORE}",
                found="one that could keep a part of the release from being published",
                hint=f"remove it: hf repo-files delete {remote.repository.name} {_GITIGNORE}",
            )
        if changes.strange and not options.replace:
            raise ScionError(
                "the repository has files that belong to no release there",
                where=remote.repository,
                expected="the files of an earlier release, or none",
                found=", ".join(changes.strange[:12])
                + (f", and {len(changes.strange) - 12} more" if len(changes.strange) > 12 else ""),
                hint="a release holds what its seal lists and nothing else; publish to another "
                "repository, or have these removed: --replace",
            )
        return Publication(release, remote, changes, options)

    def publish(self, plan: Publication) -> list[str]:
        """Do what was planned.

        Returns:
            What was done, a line each.

        Raises:
            ScionError: Something failed; it says what is published and what is not.
        """
        told: list[str] = []
        additions = self._additions(plan)
        remote, private = plan.remote, plan.remote.private
        if not remote.exists:
            remote = self._create()
            told.append(f"created, private: {page_of(self._repository)}")
        commit = remote.repository.require_pinned()
        if plan.is_needed:
            if plan.as_pull_request and (found := self._waiting(plan)):
                return [*told, f"a pull request with it is open already: {found}"]
            commit, page = self._commit(plan, remote, additions)
            self._compare(plan, commit, page)
            if plan.as_pull_request:
                return [*told, f"pull request opened: {page}"]
            told.append(f"committed: {page}")
        else:
            told.append(f"nothing to send: {remote.repository} has all of it")
        so_far = f"the release is published as {self._repository.at(commit)}"
        self._tag(plan.release, commit, so_far)
        if plan.options.public and private:
            self._try(
                lambda: self._api.update_repo_settings(self._repository.name, visibility="public"),
                doing="making the repository public",
                so_far=f"{so_far}, and private",
            )
            told.append("public")
            private = False
        if plan.options.collection:
            told.append(self._collect(plan.options.collection, so_far, private=private))
        seen = "private: --public opens it" if private else "public"
        return [*told, f"published ({seen}): {self._repository.at(commit)}"]

    def _look(self) -> RepositoryState:
        def ask() -> tuple[str | None, bool] | None:
            try:
                info = self._api.model_info(self._repository.name, timeout=TIMEOUT_SECONDS)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
            return info.sha, bool(info.private)

        found = retry(ask, self._repository)
        if found is None or found[0] is None:
            return RepositoryState(self._repository)
        there = self._repository.at(found[0])
        files = list_files(there, token=self._token)
        return RepositoryState(there, found[1], files, self._listed(there, files))

    def _listed(
        self, there: HubRepository, files: Mapping[str, RemoteFile]
    ) -> frozenset[str] | None:
        """The names that the seal of a release there lists; None where there is no such seal."""
        if MANIFEST not in files or not 0 < files[MANIFEST].size <= MAX_TEXT_BYTES:
            return None
        raw = read_range(there, MANIFEST, 0, files[MANIFEST].size, token=self._token)
        try:
            sealed = check_manifest(
                parse_object(raw, where=MANIFEST, hint=""), where=MANIFEST, hint=""
            )
        except ScionError:
            # Of another tool, a file of that name may hold anything.
            return None
        return frozenset(sealed["files"]) if sealed["stage"] == SEALED else None

    def _create(self) -> RepositoryState:
        self._try(
            lambda: self._api.create_repo(self._repository.name, visibility="private"),
            doing="creating the repository",
            so_far=NOTHING,
        )
        created = self._look()
        if not created.exists:
            raise ScionError(
                "the repository that was just created can't be seen",
                where=self._repository,
                expected="a private repository of the account",
                found="no such repository",
                hint="run the same command again; if it stays so, check the token's rights",
            )
        return created

    def _waiting(self, plan: Publication) -> str | None:
        """The address of an open pull request with the same release, if there is one."""
        opened = self._try(
            lambda: list(
                self._api.get_repo_discussions(
                    self._repository.name, discussion_type="pull_request"
                )
            ),
            doing="looking for open pull requests",
            so_far=NOTHING,
        )
        for each in opened:
            if each.status in ("open", "draft") and each.title == plan.release.summary:
                revision = f"refs/pr/{each.num}"
                if not _differences(plan.release, self._files_at(revision)):
                    return f"{page_of(self._repository)}/discussions/{each.num}"
        return None

    def _files_at(self, revision: str) -> dict[str, RemoteFile]:
        at = self._repository.at(self._commit_of(revision))
        return list_files(at, token=self._token)

    def _commit_of(self, revision: str) -> str:
        return resolve_revision(self._repository.at(revision), token=self._token)

    def _additions(self, plan: Publication) -> list[CommitOperationAdd]:
        """What is to be sent; the client looks whether each file is there."""
        release = plan.release
        return self._try(
            lambda: [
                CommitOperationAdd(path, release.small.get(path, str(release.folder / path)))
                for path in plan.changes.sent
            ],
            doing="looking at the files",
            so_far=NOTHING,
        )

    def _commit(
        self, plan: Publication, remote: RepositoryState, additions: Sequence[CommitOperationAdd]
    ) -> tuple[str, str]:
        """The commit and the address of its page, or of the pull request."""
        release, name = plan.release, self._repository.name
        gone = [CommitOperationDelete(path, is_folder=False) for path in plan.changes.removed]
        doing(f"sending {len(additions)} files to {name}")
        self._try(
            lambda: self._api.preupload_lfs_files(
                name, additions, create_pr=plan.as_pull_request, free_memory=False
            ),
            doing="sending large files",
            so_far=NOTHING,
        )
        for each in additions:
            if each.path_in_repo not in release.small:
                require_as_audited(release, each.path_in_repo, each.upload_info.sha256.hex())
        try:
            made = self._api.create_commit(
                name,
                [*additions, *gone],
                commit_message=release.summary,
                commit_description=release.description,
                parent_commit=remote.repository.require_pinned(),
                create_pr=plan.as_pull_request,
            )
        except FAILURES as error:
            if may_be_made(error) and (found := self._found(plan)) is not None:
                # The answer was lost, or somebody else has published the same.
                return found
            raise refusal(error, self._repository, doing="committing", so_far=NOTHING) from error
        return made.oid, made.pr_url or made.commit_url

    def _found(self, plan: Publication) -> tuple[str, str] | None:
        """As `_commit`, of a commit that is there although nobody has said so.

        Raises:
            ScionError: The hub does not tell.
        """
        page = page_of(self._repository)
        try:
            if plan.as_pull_request:
                waiting = self._waiting(plan)
                if waiting is None:
                    return None
                return self._commit_of(f"refs/pr/{waiting.rpartition('/')[2]}"), waiting
            now = self._look()
        except ScionError as error:
            raise ScionError(
                "the hub took the commit and did not answer: whether it was made is not known",
                where=self._repository,
                expected="an answer to the commit, or to the question what the last one is",
                found=error.found,
                hint="run the same command again: if it was made, nothing is sent again; "
                f"{page}/commits/main",
            ) from error
        if _differences(plan.release, now.files):
            return None
        commit = now.repository.require_pinned()
        return commit, f"{page}/commit/{commit}"

    def _compare(self, plan: Publication, commit: str, page: str) -> None:
        """Refuse to call it published if the commit does not hold what was audited."""
        try:
            files = list_files(self._repository.at(commit), token=self._token)
        except ScionError as error:
            error.problem = f"committed as {commit}, and not looked at since: {error.problem}"
            error.hint = f"run the same command again, which looks; {page}"
            raise
        if different := _differences(plan.release, files):
            raise ScionError(
                "the hub holds something else than what was sent",
                where=self._repository.at(commit),
                expected=f"{len(plan.release.digests)} files as they were audited",
                found=f"{len(different)} that are not: {', '.join(different[:6])}",
                hint=f"run the same command again, or see {page}",
            )

    def _tag(self, release: AuditedRelease, commit: str, so_far: str) -> None:
        """Give the commit the release's own name, by which it can be asked for."""

        def add() -> bool:
            try:
                self._api.create_tag(
                    self._repository.name,
                    tag=release.tag,
                    tag_message=release.summary,
                    revision=commit,
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
                return False
            return True

        new = self._try(add, doing="tagging the commit", so_far=so_far)
        if not new and _differences(release, self._files_at(release.tag)):
            raise ScionError(
                f"the repository has a tag of the release's name on another commit; {so_far}",
                where=self._repository.at(release.tag),
                expected="the release",
                found="other files",
                hint=f"remove the tag and run again: hf repo tag delete {self._repository.name} "
                f"{release.tag}",
            )

    def _collect(self, title: str, so_far: str, *, private: bool) -> str:
        owner = self._repository.name.split("/")[0]

        def add() -> str:
            made = self._api.create_collection(
                title, namespace=owner, private=private, exists_ok=True
            )
            if made.private and not private:
                # Begun with a draft.
                self._api.update_collection_metadata(made.slug, private=False)
            self._api.add_collection_item(
                made.slug, item_id=self._repository.name, item_type="model", exists_ok=True
            )
            return f"in the collection {endpoint()}/collections/{made.slug}"

        return self._try(add, doing="adding it to the collection", so_far=so_far)

    def _try(self, request: Callable[[], _Answer], *, doing: str, so_far: str) -> _Answer:
        try:
            return request()
        except FAILURES as error:
            raise refusal(error, self._repository, doing=doing, so_far=so_far) from error


def _differences(release: AuditedRelease, files: dict[str, RemoteFile]) -> list[str]:
    """The files of a release that a repository lacks, or has with another content."""
    return sorted(
        name
        for name in release.digests
        if name not in files or not is_same(release, name, files[name])
    )
