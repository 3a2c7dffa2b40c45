"""`scion audit` and `scion explain` of repositories of a hub, through real HTTP, by ranges."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoints import edit_tensor
from conversion import Pico
from hub_server import NO_PROXY, HubServer
from scion.audit.attested import Signer
from scion.audit.audit import audit
from scion.checkpoint.hub import http as hub_http
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from tampering import rehash

RELEASE, SOURCE, DONOR = "owner/release", "owner/source", "owner/donor"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub_http, "RETRY_SECONDS", (0.0, 0.0))
    monkeypatch.setenv("NO_PROXY", NO_PROXY)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))


@pytest.fixture
def hub(
    sealed_release: Path, pico: Pico, monkeypatch: pytest.MonkeyPatch, environment: None
) -> Iterator[HubServer]:
    folders = {RELEASE: sealed_release, SOURCE: pico.agent, DONOR: pico.base}
    with HubServer(folders) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def test_a_release_on_a_hub_is_proved_by_source_and_donor_there(
    hub: HubServer, sealed_release: Path, pico: Pico, tmp_path: Path
) -> None:
    found = audit(hub.location(RELEASE), source=hub.location(SOURCE), donor=hub.location(DONOR))
    folders = audit(str(sealed_release), source=str(pico.agent), donor=str(pico.base))
    assert [(v.part, v.outcome, v.told) for v in found.verdicts] == [
        (v.part, v.outcome, v.told) for v in folders.verdicts
    ]
    assert found.root == folders.root
    # Nothing is kept on the disk, and of the donor only its head is moved.
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    donor = [digest_file(path) for path in pico.base.glob("*.safetensors")]
    head = (sealed_release / "model-mtp.safetensors").stat().st_size
    whole = sum(path.stat().st_size for path in pico.base.glob("*.safetensors"))
    moved = sum(r.sent for r in hub.requests if any(digest in r.path for digest in donor))
    assert head // 2 < moved < whole // 2, (head, moved, whole)
    # Scales of one number come with the headers: no request is for one of them.
    spans = [
        re.fullmatch(r"bytes=(\d+)-(\d+)", r.range)
        for r in hub.requests
        if r.server == "cdn" and r.range is not None
    ]
    assert len(spans) > 100
    assert all(span is not None and int(span[2]) - int(span[1]) >= 4 for span in spans)


def test_an_altered_tensor_on_a_hub_is_named(
    sealed_release: Path,
    pico: Pico,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: None,
) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    name = "model.language_model.norm.weight"
    edit_tensor(folder, name, lambda raw: raw.__setitem__(0, raw[0] ^ 1))
    rehash(folder)
    with HubServer({RELEASE: folder, SOURCE: pico.agent, DONOR: pico.base}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        found = audit(hub.location(RELEASE), source=hub.location(SOURCE))
    told = {v.part: [fault.subject for fault in v.faults] for v in found.verdicts}
    assert told["unchanged tensors"] == [name]


def test_a_signature_is_not_verified_there(hub: HubServer) -> None:
    with pytest.raises(ScionError, match="a signature is verified in a folder"):
        audit(hub.location(RELEASE), signer=Signer(Path("public.pem")))


def test_a_hub_that_fails_ends_the_audit_and_proves_nothing(hub: HubServer) -> None:
    hub.fail(f"{SOURCE}/resolve", times=1000, status=503)
    with pytest.raises(ScionError) as caught:
        audit(hub.location(RELEASE), source=hub.location(SOURCE))
    assert SOURCE in str(caught.value)
