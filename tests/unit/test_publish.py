"""`scion publish`, by the real client against a server that speaks the hub's protocol."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import measured
from checkpoints import edit_tensor
from conversion import Conversion
from hub_repository import Content, Repository
from hub_server import NO_PROXY, HubServer
from lock import ROOT
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_layout import CARD, SIGNATURE
from scion.audit.audit import audit
from scion.audit.publication.audited import AuditedRelease, audited_release
from scion.audit.publication.transaction import Publisher, PublishOptions
from scion.checkpoint.hub import http as hub_http
from scion.checkpoint.hub.location import HubRepository
from scion.cli import main as cli
from scion.common.errors import ScionError
from sealed import sealed
from tampering import SHARD, rehash

NAME = "owner/release"
REPOSITORY = HubRepository("model", NAME, None)
TOKEN = "hf_write"
DIRECT = PublishOptions(to_main=True)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=["xet", "lfs"])
def way(request: pytest.FixtureRequest) -> str:
    """How large files travel."""
    return request.param


@pytest.fixture
def hub(way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    monkeypatch.setattr(hub_http, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", way == "lfs")
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # A folder of its own for each test: hf-xet keeps what it knows of a storage in memory.
    with HubServer({}, xet=tmp_path / "xet" if way == "xet" else None) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def release(sealed_release: Path, tmp_path: Path) -> Path:
    """A release that may be altered."""
    return shutil.copytree(sealed_release, tmp_path / "release")


@pytest.fixture(scope="module")
def audited(sealed_release: Path) -> AuditedRelease:
    return audited_release(sealed_release)


@pytest.fixture
def changed(release: Path) -> AuditedRelease:
    """The same release with another card, in the folder `release`."""
    edit_card(release)
    return audited_release(release)


def published(release: AuditedRelease, options: PublishOptions = DIRECT) -> list[str]:
    """What publishing says."""
    publisher = Publisher(REPOSITORY)
    return publisher.publish(publisher.plan(release, options))


def refused(run: Callable[[], object]) -> ScionError:
    """The error; it never tells the token."""
    with pytest.raises(ScionError) as caught:
        run()
    assert TOKEN not in str(caught.value)
    return caught.value


def contents(repository: Repository) -> dict[str, bytes]:
    """The files of `main` but for the one that the hub itself puts there."""
    files = {name: data[0 : len(data)] for name, data in repository.files.items()}
    return {name: data for name, data in files.items() if name != ".gitattributes"}


def on_disk(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def commits(hub: HubServer) -> int:
    """How many commits the hub was asked for."""
    return sum("/commit/" in request.path for request in hub.requests)


def moved(hub: HubServer) -> int:
    """Bytes of large files that have arrived, and of all that came with the commits."""
    large = hub.received("/upload/") if hub.xet is None else hub.xet.stored_bytes()
    return large + hub.received("/commit/")


def edit_card(folder: Path) -> None:
    """Another card, and all digests that follow from it."""
    card = folder / CARD
    card.write_text(card.read_text() + "\nA sentence more.\n")
    rehash(folder)


# What is published


def test_a_release_is_published_whole_and_private(
    hub: HubServer, audited: AuditedRelease, sealed_release: Path
) -> None:
    told = published(audited)
    repository = hub.repositories[NAME]
    assert contents(repository) == on_disk(sealed_release)
    assert repository.token == TOKEN
    assert commits(hub) == 1
    assert told[-1].startswith("published (private")
    # By its own tag, and proved from there.
    assert repository.revisions[audited.tag] == repository.commit
    found = audit(f"hf://{NAME}@{audited.tag}", root=audited.root)
    assert not found.refuted
    assert found.root == audited.root
    summary, description = repository.messages[repository.commit]
    assert audited.root.removeprefix("sha256:")[:12] in summary
    assert audited.root in description


def test_the_same_release_again_moves_nothing(hub: HubServer, audited: AuditedRelease) -> None:
    published(audited)
    first, moved_first = hub.repositories[NAME].commit, moved(hub)
    told = published(audited)
    assert any("nothing to send" in line for line in told)
    assert hub.repositories[NAME].commit == first
    assert (commits(hub), moved(hub)) == (1, moved_first)


def test_after_an_edit_of_the_card_only_what_changed_is_sent(
    hub: HubServer, audited: AuditedRelease, changed: AuditedRelease, release: Path
) -> None:
    published(audited)
    before, asked = moved(hub), len(hub.requests)
    published(changed)
    assert contents(hub.repositories[NAME]) == on_disk(release)
    differing = [n for n in changed.digests if changed.digests[n] != audited.digests.get(n)]
    assert CARD in differing
    assert SHARD not in differing
    # A commit has files in base64, and a line around each.
    smallest = sum(changed.size(name) for name in differing) * 4 / 3
    assert smallest < moved(hub) - before < smallest + 400 * len(differing) + 2000
    assert not any("/upload/" in request.path for request in hub.requests[asked:])


def test_what_an_earlier_release_had_goes_and_what_the_hub_put_there_stays(
    hub: HubServer, audited: AuditedRelease, release: Path
) -> None:
    (release / SIGNATURE).write_bytes(b"{}")
    published(audited_release(release))
    assert SIGNATURE in hub.repositories[NAME].files
    published(audited)
    # A signature is of the release that it was made for.
    assert SIGNATURE not in hub.repositories[NAME].files
    assert ".gitattributes" in hub.repositories[NAME].files


def test_a_public_repository_gets_one_pull_request(
    hub: HubServer, audited: AuditedRelease, changed: AuditedRelease, release: Path
) -> None:
    published(audited)
    repository = hub.repositories[NAME]
    first = repository.commit
    assert published(audited, PublishOptions(public=True))[-1].startswith("published (public)")
    assert repository.token is None
    assert published(changed, PublishOptions())[-1].startswith("pull request opened: ")
    assert repository.commit == first
    (opened,) = repository.pull_requests
    at = repository.history[repository.revisions[opened.revision]]
    assert {n: d[0 : len(d)] for n, d in at.items() if n != ".gitattributes"} == on_disk(release)
    assert "open already" in published(changed, PublishOptions())[-1]
    assert len(repository.pull_requests) == 1
    # One that was closed is no reason not to open another.
    opened.status = "closed"
    published(changed, PublishOptions())
    assert len(repository.pull_requests) == 2


def test_a_repository_is_opened_by_a_later_run(hub: HubServer, audited: AuditedRelease) -> None:
    published(audited)
    assert "private: --public opens it" in published(audited)[-1]
    assert "public" in published(audited, PublishOptions(public=True))
    assert hub.repositories[NAME].token is None


def test_a_family_gathers_in_one_collection(hub: HubServer, audited: AuditedRelease) -> None:
    for _ in range(2):
        published(audited, PublishOptions(to_main=True, collection="Pico family"))
    (collection,) = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == [NAME]
    assert collection["private"]
    # Once there is something to see, everybody may.
    published(audited, PublishOptions(public=True, collection="Pico family"))
    assert not collection["private"]


def test_a_token_is_used_though_it_is_not_to_be_guessed(
    hub: HubServer, audited: AuditedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    published(audited)
    assert commits(hub) == 1
    # The second look reads the manifest that is there.
    published(audited)
    cdn = [request.authorization for request in hub.requests if request.server == "cdn"]
    assert set(cdn) <= {None}


def test_a_dry_run_says_what_would_happen_and_sends_nothing(
    hub: HubServer,
    release: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["scion", "publish", str(release), NAME, "--dry-run"])
    assert cli.main() == 0
    said = capsys.readouterr().out
    assert "new, or not visible to this token; would be created, private" in said
    assert re.search(rf"^  add     {SHARD}  [\d.]+ [kM]B$", said, re.MULTILINE)
    assert "dry run: nothing was sent" in said
    assert NAME not in hub.repositories
    assert all(request.method in ("GET", "HEAD") for request in hub.requests)


# What is not


def test_a_release_that_the_audit_refutes_is_not_published(release: Path) -> None:
    edit_tensor(release, "model.language_model.norm.weight", lambda raw: raw.__setitem__(0, 1))
    error = refused(lambda: audited_release(release))
    assert "the audit refutes the release (seal" in error.problem
    assert SHARD.split("-")[0] in error.where


def test_a_checkpoint_that_lint_refuses_is_not_published(release: Path) -> None:
    config = release / "config.json"
    config.write_text(
        config.read_text().replace('"num_hidden_layers": 8', '"num_hidden_layers": 9')
    )
    rehash(release)
    assert "lint" in refused(lambda: audited_release(release)).problem


@pytest.mark.parametrize(
    ("record", "outcome"), [("wrong-scale", "regression"), ("own-base", "undecided")]
)
def test_a_release_that_its_verdict_is_against_is_not_published(
    record: str, outcome: str, conversion: Conversion, tmp_path: Path
) -> None:
    told = json.loads((ROOT / f"docs/measurements/verdict/{record}.json").read_text())
    told["weights"] = conversion.graft_mtp.content
    content = {**measured.results(), "judge_release": told}
    folder = sealed(conversion, tmp_path / "made", content, attested=False)
    error = refused(lambda: audited_release(folder))
    assert error.problem == f"the verdict on the release is {outcome}, and nothing was published"
    assert "agent cases lost" in error.found
    if outcome == "undecided":
        assert audited_release(folder, undecided=True).root
    else:
        assert outcome in refused(lambda: audited_release(folder, undecided=True)).problem


def test_a_folder_without_a_seal_is_not_published(release: Path) -> None:
    (release / MANIFEST).unlink()
    assert "without a seal" in refused(lambda: audited_release(release)).problem


def test_a_signature_that_was_asked_for_has_to_be_there(release: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from scion.audit.attested import Signer

    key = tmp_path / "public.pem"
    form = PublicFormat.SubjectPublicKeyInfo
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, form)
    )
    error = refused(lambda: audited_release(release, signer=Signer(key, None, None)))
    assert "signature" in error.problem


@pytest.mark.parametrize("name", [CARD, MANIFEST, "tensors.json"])
def test_what_git_keeps_is_published_as_it_was_audited(
    name: str, hub: HubServer, release: Path, sealed_release: Path
) -> None:
    audited = audited_release(release)
    (release / name).write_bytes(b"altered")
    published(audited)
    assert contents(hub.repositories[NAME]) == on_disk(sealed_release)


def test_a_shard_that_changes_after_the_audit_is_not_committed(
    hub: HubServer, release: Path
) -> None:
    audited = audited_release(release)
    edit_tensor(release, "model.language_model.norm.weight", lambda raw: raw.__setitem__(0, 1))
    assert "changed after it was audited" in refused(lambda: published(audited)).problem
    assert contents(hub.repositories[NAME]) == {}
    assert commits(hub) == 0


def test_files_of_no_release_are_not_removed_unasked(
    hub: HubServer, audited: AuditedRelease
) -> None:
    published(audited)
    hub.repositories[NAME].files["notes/.mine"] = b"x"
    error = refused(lambda: published(audited))
    assert error.found == "notes/.mine"
    assert "--replace" in error.hint
    assert "notes/.mine" in hub.repositories[NAME].files
    published(audited, PublishOptions(to_main=True, replace=True))
    assert "notes/.mine" not in hub.repositories[NAME].files


@pytest.mark.parametrize(
    "manifest", [None, b"{}", b'{"files": {"notes/a.txt": {}}}', b"no JSON"], ids=str
)
def test_a_repository_of_another_kind_is_not_overwritten_unasked(
    manifest: bytes | None, hub: HubServer, audited: AuditedRelease
) -> None:
    files: dict[str, Content] = {CARD: b"my own", "notes/a.txt": b"x"}
    if manifest is not None:
        files[MANIFEST] = manifest
    hub.repositories[NAME] = Repository(dict(files), token=TOKEN)
    error = refused(lambda: published(audited))
    assert set(error.found.split(", ")) == set(files)
    assert contents(hub.repositories[NAME]) == files
    published(audited, PublishOptions(replace=True))
    assert set(contents(hub.repositories[NAME])) == set(audited.digests)


def test_a_repository_that_would_leave_files_out_is_refused(
    hub: HubServer, audited: AuditedRelease
) -> None:
    published(audited)
    hub.repositories[NAME].files[".gitignore"] = b"*.json\n"
    for options in (DIRECT, PublishOptions(replace=True)):
        assert ".gitignore" in refused(lambda options=options: published(audited, options)).problem


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        (HubRepository("dataset", "owner/data", None), "a model"),
        (HubRepository("model", NAME, "main"), f"hf://{NAME}"),
    ],
)
def test_only_a_models_repository_takes_a_release(
    repository: HubRepository, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert expected in refused(lambda: Publisher(repository)).expected


@pytest.mark.parametrize("name", ["owner/a--b", "owner/x.git", f"owner/{'a' * 120}", "owner/a..b"])
def test_a_name_that_the_hub_does_not_take_is_told(
    name: str,
    release: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(sys, "argv", ["scion", "publish", str(release), name])
    assert cli.main() == 1
    assert "the hub takes no --" in capsys.readouterr().err


def test_a_token_of_other_letters_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\N{LATIN SMALL LETTER A WITH DIAERESIS}")
    assert "none of the hub's" in refused(lambda: Publisher(REPOSITORY)).problem


# Who may


def test_without_a_token_nothing_is_read(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no token" in refused(lambda: Publisher(REPOSITORY)).problem
    assert hub.requests == []


def test_a_token_that_may_only_read_is_told(
    hub: HubServer, audited: AuditedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    error = refused(lambda: published(audited))
    assert "may not write there" in error.problem
    assert "nothing was published" in error.problem
    assert "hf_read" not in str(error)
    assert NAME not in hub.repositories


def test_a_name_that_a_stranger_has_is_told(hub: HubServer, audited: AuditedRelease) -> None:
    hub.repositories[NAME] = Repository({}, token="hf_another")
    error = refused(lambda: published(audited))
    assert "exists, and this token may not see it" in error.problem


# What fails on the way


def test_a_commit_onto_a_moved_parent_is_refused(
    hub: HubServer, audited: AuditedRelease, release: Path
) -> None:
    published(audited)
    edit_card(release)
    publisher = Publisher(REPOSITORY)
    plan = publisher.plan(audited_release(release), DIRECT)
    moved_on, _ = hub.repositories[NAME].add_commit(
        "main", added={"x": b"x"}, removed=set(), parent=None, message=("x", ""),
        as_pull_request=False,
    )  # fmt: skip
    error = refused(lambda: publisher.publish(plan))
    assert "another commit was made" in error.problem
    assert "nothing was published" in error.problem
    assert hub.repositories[NAME].commit == moved_on


def test_of_two_publishers_at_once_one_is_refused(
    hub: HubServer, audited: AuditedRelease, release: Path
) -> None:
    published(audited)
    edit_card(release)
    one, other = Publisher(REPOSITORY), Publisher(REPOSITORY)
    plan = one.plan(audited_release(release), DIRECT)
    card = release / CARD
    card.write_text(card.read_text() + "\nAnd one more.\n")
    rehash(release)
    later = other.plan(audited_release(release), DIRECT)
    one.publish(plan)
    committed = hub.repositories[NAME].commit
    assert "another commit was made" in refused(lambda: other.publish(later)).problem
    assert hub.repositories[NAME].commit == committed


def test_a_quota_that_is_reached_in_the_middle_leaves_a_draft_and_is_resumed(
    hub: HubServer, audited: AuditedRelease, way: str
) -> None:
    matched = f"/upload/{audited.digests[SHARD]}" if way == "lfs" else "/xet-write-token/"
    words = {"X-Error-Message": "Private repository storage limit reached"}
    hub.fail(matched, status=403, headers=words, times=20)
    error = refused(lambda: published(audited))
    assert "nothing was published" in error.problem
    assert contents(hub.repositories[NAME]) == {}
    assert commits(hub) == 0
    arrived = hub.received("/upload/") - hub.received(matched)
    hub.clear_faults()
    asked = len(hub.requests)
    published(audited)
    assert commits(hub) == 1
    if way == "lfs":
        # What had arrived is not sent twice.
        again = sum(r.received for r in hub.requests[asked:] if "/upload/" in r.path)
        large = sum(audited.size(n) for n in audited.digests if n.endswith(".safetensors"))
        assert "no room" in error.problem
        assert again == large - arrived
        assert arrived > 0


@pytest.mark.parametrize("fault", [{"cut_after": 0}, {"cut_after": 20}])
def test_a_commit_whose_answer_is_lost_is_found(
    fault: dict[str, int], hub: HubServer, audited: AuditedRelease
) -> None:
    hub.fail("/commit/", **fault)
    told = published(audited)
    assert told[-1].startswith("published")
    assert commits(hub) == 1


def test_a_pull_request_whose_answer_is_lost_is_found(
    hub: HubServer, audited: AuditedRelease, changed: AuditedRelease
) -> None:
    published(audited, PublishOptions(public=True))
    hub.fail("/commit/", cut_after=0)
    assert published(changed, PublishOptions())[-1].startswith("pull request opened: ")
    assert len(hub.repositories[NAME].pull_requests) == 1


def test_the_same_release_from_two_terminals_is_published_once(
    hub: HubServer, audited: AuditedRelease, changed: AuditedRelease
) -> None:
    published(audited)
    one, other = Publisher(REPOSITORY), Publisher(REPOSITORY)
    plans = [each.plan(changed, DIRECT) for each in (one, other)]
    one.publish(plans[0])
    committed = hub.repositories[NAME].commit
    assert other.publish(plans[1])[-1].startswith("published")
    assert hub.repositories[NAME].commit == committed


def test_a_tag_on_another_release_is_told(
    hub: HubServer, audited: AuditedRelease, changed: AuditedRelease
) -> None:
    published(audited)
    repository = hub.repositories[NAME]
    repository.revisions[changed.tag] = repository.commit
    error = refused(lambda: published(changed))
    assert "a tag of the release's name on another commit" in error.problem
    assert repository.commit in error.problem


def test_a_shard_that_is_gone_leaves_no_repository_behind(hub: HubServer, release: Path) -> None:
    audited = audited_release(release)
    (release / SHARD).unlink()
    error = refused(lambda: published(audited))
    assert "nothing was published" in error.problem
    assert NAME not in hub.repositories


def test_a_hub_that_dies_once_it_has_committed_leaves_it_open(
    hub: HubServer,
    audited: AuditedRelease,
    changed: AuditedRelease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published(audited)
    repository = hub.repositories[NAME]
    sound = repository.add_commit

    def dying(*args: Any, **kwargs: Any) -> Any:
        hub.fail("", times=99, status=503)
        return sound(*args, **kwargs)

    monkeypatch.setattr(repository, "add_commit", dying)
    hub.fail("/commit/", cut_after=0)
    error = refused(lambda: published(changed))
    assert "whether it was made is not known" in error.problem
    assert "nothing was published" not in str(error)
    hub.clear_faults()
    assert any("nothing to send" in line for line in published(changed))


@pytest.mark.parametrize(
    ("match", "fault", "problem"),
    [
        ("/api/repos/create", {"status": 500}, "failed to answer"),
        ("/preupload/", {"status": 403}, "may not write there"),
        ("/commit/", {"status": 503}, "failed to answer"),
        ("/commit/", {"status": 400}, "does not take what was sent"),
        ("/commit/", {"status": 429}, "limits how often"),
        ("/api/validate-yaml", {"status": 400, "body": b'{"errors": []}'}, "does not take"),
    ],
)
def test_a_step_that_fails_says_that_nothing_was_published(
    match: str, fault: dict[str, int], problem: str, hub: HubServer, audited: AuditedRelease
) -> None:
    hub.fail(match, times=20, **fault)
    error = refused(lambda: published(audited))
    assert problem in error.problem, error
    assert "nothing was published" in error.problem
    assert NAME not in hub.repositories or contents(hub.repositories[NAME]) == {}


@pytest.mark.parametrize(
    ("match", "options", "doing"),
    [
        ("/settings", PublishOptions(public=True), "making the repository public"),
        ("/tag/", PublishOptions(), "tagging"),
        ("/api/collections", PublishOptions(collection="Family"), "collection"),
    ],
)
def test_what_fails_after_the_commit_says_what_is_published(
    match: str, options: PublishOptions, doing: str, hub: HubServer, audited: AuditedRelease
) -> None:
    hub.fail(match, times=20, status=500)
    error = refused(lambda: published(audited, options))
    commit = hub.repositories[NAME].commit
    assert doing in error.problem
    assert commit in error.problem
    assert "nothing was published" not in error.problem
    hub.clear_faults()
    assert published(audited, options)[-1].startswith("published")


def test_a_hub_that_stores_other_bytes_is_found_out(
    hub: HubServer, audited: AuditedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = hub.blob

    def altered(digest: str) -> object:
        data = sound(digest)
        return bytes(byte ^ 1 for byte in data) if isinstance(data, bytes) else data

    monkeypatch.setattr(hub, "blob", altered)
    error = refused(lambda: published(audited))
    assert "holds something else than what was sent" in error.problem
    assert SHARD in error.found
