"""What a release says of itself in others' forms: their own verifiers accept it, or refuse it."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import ParseDict, ParseError
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from model_signing import hashing, signing, verifying
from requests.adapters import BaseAdapter
from rocrate.rocrate import ROCrate
from rocrate_validator import services

import measured
from checkpoints import edit_json, edit_tensor
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.file_tree import FolderTree
from scion.artifacts.making import Output
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_check import check_release
from scion.artifacts.release_layout import (
    ATTESTING_FILES,
    BOM,
    CRATE,
    RELEASE,
    REPRODUCTION,
    SIGNATURE,
    STATEMENT,
    SUMS,
    TENSORS,
    WORKFLOW,
    entry_of,
    table_file,
)
from scion.audit.attested import Signer, audit_attestations
from scion.audit.audit import ReleaseAudit, audit
from scion.audit.verdict import Fault, ProofLevel
from scion.checkpoint.shards import Checkpoint
from scion.cli.main import main
from scion.common.digest import digest_file
from scion.common.errors import ScionError
from scion.report.attestation.config import require_public_key
from scion.report.attestation.sealed_release import sealing_time
from scion.report.attestation.signature import PASSWORD_VARIABLE, require_pair, sign_with_key
from scion.stages.seal_release import seal_release
from scion.stages.sign_release import sign_release
from sealed import rendered, sealed, whole
from tampering import manifest_of, rehash, reroot

CONTEXT = {
    **{
        term: f"http://schema.org/{term}"
        for term in (
            *("ComputerLanguage", "CreateAction", "CreativeWork", "Dataset", "Organization"),
            *("PropertyValue", "SoftwareApplication", "SoftwareSourceCode", "about"),
            *("additionalType", "agent", "author", "contentSize", "datePublished", "description"),
            *("encodingFormat", "endTime", "exampleOfWork", "hasPart", "identifier", "instrument"),
            *("license", "mainEntity", "mentions", "name", "object", "programmingLanguage"),
            *("publisher", "result", "softwareVersion", "url", "value", "valueRequired", "version"),
            "workExample",
        )
    },
    "File": "http://schema.org/MediaObject",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
    "ComputationalWorkflow": "https://bioschemas.org/ComputationalWorkflow",
    "FormalParameter": "https://bioschemas.org/FormalParameter",
    "input": "https://bioschemas.org/ComputationalWorkflow#input",
    "output": "https://bioschemas.org/ComputationalWorkflow#output",
}
"""The terms of RO-Crate 1.1 that the crate uses, as its context has them; there is no network."""


class _Context(BaseAdapter):
    """Answers for RO-Crate's context, and for nothing else."""

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        response = requests.Response()
        known = request.url == "https://w3id.org/ro/crate/1.1/context"
        response.status_code = 200 if known else 404
        response.raw = io.BytesIO(json.dumps({"@context": CONTEXT}).encode() if known else b"")
        response.headers["Content-Type"] = "application/ld+json"
        response.request, response.url = request, str(request.url)
        return response

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pair of keys, as the help of `scion sign` says to make them."""
    folder = tmp_path_factory.mktemp("keys")
    for command in (
        "ecparam -genkey -name prime256v1 -noout -out private.pem",
        "ec -in private.pem -pubout -out public.pem",
        "ecparam -genkey -name secp384r1 -noout -out other.pem",
        "ec -in private.pem -aes256 -passout pass:secret -out locked.pem",
        "genrsa -out rsa.pem 2048",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def folder(sealed_release: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sealed_release, tmp_path / "release")


@pytest.fixture
def signed(folder: Path, keys: Path) -> Path:
    sign_with_key(folder, folder / SIGNATURE, keys / "private.pem")
    return folder


def of(found: ReleaseAudit, part: str) -> str | None:
    """The outcome of a part; None where there is none."""
    return next((v.outcome.value for v in found.verdicts if v.part == part), None)


def verify_statement(folder: Path) -> None:
    content = json.loads((folder / STATEMENT).read_text())
    Statement.copy_from_pb(ParseDict(content, vars(statement_pb2)["Statement"]())).validate()
    ParseDict(content["predicate"], vars(provenance_pb2)["Provenance"]())
    for subject in content["subject"]:
        assert subject["digest"] == {"sha256": digest_file(folder / subject["name"])}


def verify_bom(folder: Path) -> None:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str((folder / BOM).read_text())
    assert problem is None, problem


def verify_crate(folder: Path) -> None:
    for profile in ("ro-crate-1.1", "workflow-run-crate"):
        asked = {
            "rocrate_uri": str(folder),
            "profile_identifier": profile,
            "requirement_severity": "REQUIRED",
            "no_cache": True,
        }
        issues = services.validate(asked).get_issues()
        assert not issues, [issue.message for issue in issues]


def verify_signature(folder: Path, keys: Path) -> None:
    config = verifying.Config().use_elliptic_key_verifier(public_key=keys / "public.pem")
    config.verify(folder, folder / SIGNATURE)


def holds(folder: Path, keys: Path) -> bool:
    """Whether the signature does; the library has no error of its own for one that does not."""
    try:
        verify_signature(folder, keys)
    except Exception:
        return False
    return True


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests.Session, "get_adapter", lambda *_, **__: _Context())


# Accepted


def test_their_own_verifiers_accept_the_attestations(sealed_release: Path) -> None:
    verify_statement(sealed_release)
    verify_bom(sealed_release)
    verify_crate(sealed_release)
    # The library reads back what it is to describe.
    described: Any = ROCrate(sealed_release)
    assert described.mainEntity.id == WORKFLOW


def test_a_statement_names_every_file_and_what_it_was_made_from(
    sealed_release: Path, conversion: Conversion
) -> None:
    content = json.loads((sealed_release / STATEMENT).read_text())
    there = {str(p.relative_to(sealed_release)) for p in sealed_release.rglob("*") if p.is_file()}
    besides = {*ATTESTING_FILES, SUMS, TENSORS, MANIFEST}
    assert {subject["name"] for subject in content["subject"]} == there - besides
    needed = {
        entry["name"]: entry["digest"]["sha256"]
        for entry in content["predicate"]["buildDefinition"]["resolvedDependencies"]
        if "sha256" in entry["digest"]
    }
    for name, entry in conversion.fetch_source.files.items():
        assert needed[f"source/{name}"] == entry["sha256"]
    assert "quantize_nvfp4/calibration_1" in needed


def test_a_release_tells_how_it_is_made_again(sealed_release: Path) -> None:
    content = json.loads((sealed_release / REPRODUCTION).read_text())
    assert content["weights_sha256"] == {
        path.name: digest_file(path) for path in sealed_release.glob("*.safetensors")
    }
    given = json.loads((sealed_release / "provenance/quantize_nvfp4.json").read_text())["settings"]
    assert content["settings"]["quantization"]["recipe"] == given["recipe"]
    assert content["environment"]["scion"]["commit"]
    assert {"version", "timestamp", "model", "model_commit"} <= content.keys()
    assert "store" not in content["settings"]


def test_openssf_verifies_what_was_signed(signed: Path, keys: Path) -> None:
    verify_signature(signed, keys)
    command = [
        *(sys.executable, "-m", "model_signing", "verify", "key", str(signed)),
        *("--signature", str(signed / SIGNATURE), "--public_key", str(keys / "public.pem")),
    ]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert of(audit(str(signed), signer=Signer(keys / "public.pem")), "signature") == "proved"
    assert of(audit(str(signed)), "signature") == "unproved"
    _, problems = check_release(FolderTree(signed))
    assert not problems


def test_what_a_hubs_client_adds_breaks_no_signature(signed: Path, keys: Path) -> None:
    added = signed / ".cache/huggingface/download/config.json.metadata"
    added.parent.mkdir(parents=True)
    added.write_text("of a client")
    (signed / ".gitattributes").write_text("*.safetensors filter=lfs")
    verify_signature(signed, keys)


# Refused


def test_one_changed_byte_of_any_file_breaks_the_signature(signed: Path, keys: Path) -> None:
    generator = random.Random(7)
    files = [path for path in sorted(signed.rglob("*")) if path.is_file()]
    assert len(files) > 40
    for path in files:
        before = path.read_bytes()
        at = generator.randrange(len(before))
        path.chmod(0o644)
        path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        assert not holds(signed, keys), (path.name, at)
        path.write_bytes(before)
    verify_signature(signed, keys)


def _digit(name: str) -> Callable[[Path], None]:
    """A change of one digit of a SHA-256 in a file."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        at = text.rindex(digest_file(folder / "model-mtp.safetensors"))
        digit = "0" if text[at] != "0" else "1"
        (folder / name).write_text(text[:at] + digit + text[at + 1 :])

    return change


@pytest.mark.parametrize("name", ATTESTING_FILES)
def test_one_changed_digit_of_an_attestation_is_named(name: str, folder: Path) -> None:
    _digit(name)(folder)
    reroot(folder)
    (faults,) = [v.faults for v in audit(str(folder)).verdicts if v.part == "attestations"]
    assert len(faults) == 1
    assert faults[0].subject.startswith(f"{name}: ")


@pytest.mark.parametrize("name", ATTESTING_FILES)
def test_an_attestation_that_is_missing_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    reroot(folder)
    found = audit(str(folder))
    assert of(found, "attestations") == "refuted"
    assert any(f"{name}: missing" in line for line in check_release(FolderTree(folder))[1])


@pytest.mark.parametrize(
    ("change", "verify"),
    [
        (lambda f: edit_json(f / STATEMENT, lambda c: c.pop("subject")), verify_statement),
        (lambda f: edit_json(f / STATEMENT, lambda c: c.update(more=1)), verify_statement),
        (lambda f: (f / "config.json").write_text("{}"), verify_statement),
        (lambda f: edit_json(f / BOM, lambda c: c["components"][0].pop("name")), verify_bom),
        (lambda f: edit_json(f / CRATE, lambda c: c["@graph"].pop(0)), verify_crate),
        (lambda f: (f / WORKFLOW).unlink(), verify_crate),
    ],
)
def test_their_own_verifiers_refuse_what_is_none(
    change: Callable[[Path], object], verify: Callable[[Path], None], folder: Path
) -> None:
    change(folder)
    with pytest.raises((AssertionError, ValueError, ParseError)):
        verify(folder)


def _number_on_card(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    share = re.search(r"accepted by position: (\d\d\.\d)", text)
    assert share is not None
    (folder / "README.md").write_text(text.replace(share[1], "99.9"))


def _other_calibration(folder: Path) -> None:
    name = "model.language_model.layers.0.linear_attn.out_proj.input_scale"
    # Another last bit: samples that differ little give such scales.
    edit_tensor(folder, name, lambda raw: raw.__setitem__(0, raw[0] ^ 1))
    checkpoint = Checkpoint.open(folder)
    piece, shard = checkpoint.piece(name), checkpoint.shard_of[name]
    digest = digest_file(piece.path, offset=piece.offset, size=piece.tensor.size)
    for table in (TENSORS, table_file("quantize_nvfp4")):
        edit_json(folder / table, lambda rows: rows[name].update(sha256=digest))
    entry = entry_of((folder / shard).read_bytes())
    quantized = manifest_of(folder, "quantize_nvfp4")
    edit_json(quantized, lambda manifest: manifest["files"].update({shard: entry}))


@pytest.mark.parametrize("change", [_number_on_card, _other_calibration])
def test_the_signature_tells_what_source_and_donor_can_not(
    change: Callable[[Path], None], signed: Path, keys: Path, pico: Pico
) -> None:
    change(signed)
    rehash(signed)
    found = audit(
        str(signed),
        source=str(pico.agent),
        donor=str(pico.base),
        signer=Signer(keys / "public.pem"),
    )
    refuted = [v.part for v in found.verdicts if v.outcome is ProofLevel.REFUTED]
    assert refuted == ["signature"], [v.faults for v in found.verdicts if v.faults]


def test_another_key_and_no_signature_are_refuted(signed: Path, keys: Path) -> None:
    other = keys / "other_public.pem"
    command = ["openssl", "ec", "-in", keys / "other.pem", "-pubout", "-out", other]
    subprocess.run(command, check=True, capture_output=True)
    assert of(audit(str(signed), signer=Signer(other)), "signature") == "refuted"
    (signed / SIGNATURE).write_text("{}")
    assert of(audit(str(signed), signer=Signer(keys / "public.pem")), "signature") == "refuted"
    (signed / SIGNATURE).unlink()
    assert of(audit(str(signed), signer=Signer(keys / "public.pem")), "signature") == "refuted"
    assert of(audit(str(signed)), "signature") is None


# Signing


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scion", *map(str, words)])
    return main()


def test_a_locked_key_signs_with_its_password(
    folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    assert run(monkeypatch, "sign", folder, "--key", keys / "locked.pem") == 0
    verify_signature(folder, keys)
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    before = (folder / SIGNATURE).read_bytes()
    assert run(monkeypatch, "sign", folder, "--key", keys / "locked.pem") == 1
    assert (folder / SIGNATURE).read_bytes() == before


@pytest.mark.parametrize("key", ["rsa.pem", "public.pem", "none.pem", "locked.pem"])
def test_a_key_of_another_kind_signs_nothing(
    key: str,
    folder: Path,
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "sign", folder, "--key", keys / key) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: the private key can't be used")
    assert str(keys / key) in told
    assert not (folder / SIGNATURE).exists()


def test_an_altered_release_is_not_signed(
    folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "README.md").write_text("another")
    assert run(monkeypatch, "sign", folder, "--key", keys / "private.pem") == 1
    assert not (folder / SIGNATURE).exists()


def test_without_its_servers_sigstore_signs_and_verifies_nothing(
    signed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (signed / SIGNATURE).read_bytes()
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    assert run(monkeypatch, "sign", signed, "--sigstore") == 1
    assert (signed / SIGNATURE).read_bytes() == before
    asked = ("--identity", "me@example.org", "--issuer", "https://accounts.example.org")
    assert run(monkeypatch, "audit", signed, *asked) == 2
    assert run(monkeypatch, "audit", signed, *asked[:2]) == 2
    assert "error: it is not clear who has to have signed" in capsys.readouterr().err


def test_the_workflow_signs_what_it_seals(
    conversion: Conversion, keys: Path, tmp_path: Path
) -> None:
    release = sealed(conversion, tmp_path, measured.results())
    pointer = tmp_path / "seal_release.json"
    command = [
        *(sys.executable, "-m", "scion.stages.sign_release", "--release", str(pointer)),
        *("--public-key", str(keys / "public.pem"), "--store", str(tmp_path / ".store")),
        *("--output", str(tmp_path / "sign_release.json"), "--environment", ENVIRONMENT),
    ]
    clean = {key: value for key, value in os.environ.items() if key != "SCION_SIGNING_KEY"}
    refused = subprocess.run(command, env=clean, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "error: there is no private key to sign with" in refused.stderr
    named = clean | {"SCION_SIGNING_KEY": str(keys / "private.pem")}
    done = subprocess.run(command, env=named, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verify_signature(release, keys)
    # Neither the key nor where it lies is told to anybody.
    secrets = [str(keys), (keys / "private.pem").read_text().splitlines()[1]]
    for path in (*release.rglob("*"), *tmp_path.glob("*.json")):
        assert not path.is_file() or not any(s.encode() in path.read_bytes() for s in secrets)


def signed_by_stage(release: Path, keys: Path, private_key: str, folder: Path) -> Artifact:
    """What the workflow's stage makes of a release, verified with the public key."""
    return sign_release(
        release=Artifact.open(release),
        public_key=keys / "public.pem",
        private_key=keys / private_key,
        output=Output.at(folder / "sign_release"),
        environment=ENVIRONMENT,
    )


def test_keys_that_are_no_pair_leave_no_signature(
    sealed_release: Path, keys: Path, tmp_path: Path
) -> None:
    with pytest.raises(ScionError, match="the signature does not hold"):
        signed_by_stage(sealed_release, keys, "other.pem", tmp_path)
    assert not (tmp_path / "sign_release.json").exists()


# Sealing


def test_a_seal_of_one_time_is_the_same_twice(
    conversion: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    roots = {
        Artifact.open(sealed(conversion, tmp_path / name, measured.results())).root
        for name in ("one", "two")
    }
    assert len(roots) == 1


def test_a_release_may_go_without(conversion: Conversion, tmp_path: Path) -> None:
    made, evidence = rendered(conversion, tmp_path, measured.results())
    seal_release(
        release=whole(conversion),
        card=made,
        evidence=evidence,
        output=Output.at(tmp_path / "seal_release"),
        environment=ENVIRONMENT,
    )
    folder = tmp_path / RELEASE
    assert not any((folder / name).exists() for name in (*ATTESTING_FILES, WORKFLOW))
    found = audit(str(folder))
    assert not found.refuted
    assert of(found, "attestations") is None
    # What no seal has written is none of its files.
    (folder / CRATE).write_text("{}")
    reroot(folder)
    assert f"{CRATE}: no stage made it" in check_release(FolderTree(folder))[1]


def test_a_signature_that_leaves_files_out_does_not_hold(folder: Path, keys: Path) -> None:
    ignored = hashing.Config().set_ignored_paths(
        paths=["README.md", MANIFEST, "provenance", SIGNATURE]
    )
    signer = signing.Config().use_elliptic_key_signer(private_key=keys / "private.pem")
    signer.set_hashing_config(ignored).sign(folder, folder / SIGNATURE)
    # The library accepts it.
    verify_signature(folder, keys)
    found = audit(str(folder), signer=Signer(keys / "public.pem"))
    (fault,) = next(v.faults for v in found.verdicts if v.part == "signature")
    assert "files are not signed" in fault.found


@pytest.mark.parametrize(
    "change",
    [
        lambda sealed: sealed.pop("settings"),
        lambda sealed: sealed["settings"].update(config=3),
        lambda sealed: sealed["settings"]["config"]["attestations"].update(builder=3),
        lambda sealed: sealed["settings"]["config"].update(x=10**400),
        lambda sealed: sealed["facts"].update(sealed_at="yesterday"),
    ],
)
def test_a_seal_of_another_form_ends_no_audit(
    change: Callable[[Any], object], folder: Path
) -> None:
    edit_json(folder / MANIFEST, change)
    assert audit(str(folder)).refuted


@pytest.mark.parametrize(
    "change", [lambda text: text.replace("{", '{"version": "9",', 1), lambda text: text + " "]
)
def test_the_same_values_written_otherwise_are_named(
    change: Callable[[str], str], folder: Path
) -> None:
    path = folder / REPRODUCTION
    path.write_text(change(path.read_text()))
    reroot(folder)
    assert of(audit(str(folder)), "attestations") == "refuted"


def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("abc", "", "99999999999999"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
        with pytest.raises(ScionError, match="the time of the seal is no time"):
            sealing_time()


def test_a_changed_release_is_not_signed_by_the_stage(
    sealed_release: Path, keys: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    (folder / "README.md").write_text("another")
    with pytest.raises(ScionError, match="not what its manifests say"):
        signed_by_stage(folder, keys, "private.pem", tmp_path)


# What the reader of an audit could be told wrongly


def config_faults(folder: Path, change: Callable[[dict[str, Any]], object]) -> list[Fault]:
    """What an audit says of a configuration that was changed in the seal."""

    def in_seal(sealed_manifest: Any) -> None:
        change(sealed_manifest["settings"]["config"])

    edit_json(folder / MANIFEST, in_seal)
    found = audit_attestations(FolderTree(folder))
    assert found is not None
    return [each for each in found.faults if each.subject.startswith(MANIFEST)]


def _at(keys: Sequence[str], value: object) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("stage", "keys", "value"),
    [
        ("fetch_source", ("source",), "hf://owner/other@" + "0" * 40),
        ("fetch_donor", ("donor",), "hf://owner/other@" + "0" * 40),
        ("lint_source", ("lint",), {}),
        ("verify_release", ("lint", "ignore"), ["W101"]),
        ("quantize_nvfp4", ("quantization", "recipe"), "nvfp4_awq_full"),
        ("quantize_nvfp4", ("quantization", "keep_bf16"), ["*mlp*"]),
        ("quantize_nvfp4", ("quantization", "use_fp8"), ["*mlp*"]),
        ("quantize_nvfp4", ("quantization", "activations"), "bf16"),
        ("graft_mtp", ("text_only",), False),
        ("render_card", ("launches",), []),
    ],
    ids=str,
)
def test_a_configuration_that_no_stage_was_given_is_named(
    stage: str, keys: tuple[str, ...], value: object, folder: Path
) -> None:
    faults = config_faults(folder, _at(keys, value))
    place = f"{MANIFEST}: settings.config.{'.'.join(keys)}"
    told = [each for each in faults if each.problem == f"is not what {stage} was given"]
    assert told
    assert all(each.subject.startswith(place) for each in told)


@pytest.mark.parametrize(
    ("stage", "keys", "value"),
    [
        ("fetch_donor", ("donor",), None),
        ("respell", ("spelling",), "compressed-tensors"),
        ("heal_mtp", ("healing", "enabled"), True),
        ("quantize_mtp", ("mtp", "quantize"), "fp8"),
        ("judge_release", ("verdict", "enabled"), True),
        ("run_agent_tasks_source", ("verdict", "enabled"), True),
    ],
)
def test_a_configuration_that_asks_for_other_stages_is_named(
    stage: str, keys: tuple[str, ...], value: object, folder: Path
) -> None:
    problems = {each.problem for each in config_faults(folder, _at(keys, value))}
    having = "with" if value is None else "without"
    assert f"is not what a release {having} {stage} says" in problems


def test_a_configuration_from_before_there_was_a_verdict_is_no_fault(folder: Path) -> None:
    assert config_faults(folder, lambda config: config.pop("verdict")) == []


@pytest.mark.parametrize("section", ["source", "lint", "healing", "mtp"])
def test_a_configuration_that_lacks_something_ends_no_audit(section: str, folder: Path) -> None:
    assert config_faults(folder, lambda config: config.pop(section))


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("rsa.pem", "another kind of key, RSAPrivateKey"),
        ("public.pem", "the public half of a pair"),
        ("none.pem", "No such file or directory"),
        ("locked.pem", "Password was not given but private key is encrypted"),
    ],
)
def test_an_error_says_what_is_wrong_with_a_key(
    key: str, found: str, folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As many set it that have none.
    monkeypatch.setenv(PASSWORD_VARIABLE, "")
    with pytest.raises(ScionError) as caught:
        sign_with_key(folder, folder / SIGNATURE, keys / key)
    assert found in str(caught.value.found)
    assert PASSWORD_VARIABLE in str(caught.value.hint)


def test_keys_are_tried_before_a_run_needs_them(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCION_SIGNING_KEY", raising=False)
    with pytest.raises(ScionError, match="no private key to sign with"):
        require_pair(keys / "public.pem")
    monkeypatch.setenv("SCION_SIGNING_KEY", str(keys / "other.pem"))
    with pytest.raises(ScionError, match="no pair"):
        require_pair(keys / "public.pem")
    monkeypatch.setenv("SCION_SIGNING_KEY", str(keys / "private.pem"))
    with pytest.raises(ScionError) as caught:
        require_pair(keys / "private.pem")
    assert "which nobody else should have" in str(caught.value.found)
    require_pair(keys / "public.pem")


def test_a_signature_holds_in_the_cache_of_the_hubs_client(
    signed: Path, keys: Path, tmp_path: Path
) -> None:
    cached = tmp_path / "models--owner--name"
    snapshot, blobs = cached / "snapshots" / ("0" * 40), cached / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(signed.rglob("*"))):
        if path.is_file():
            place = snapshot / path.relative_to(signed)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, blobs / str(number))
            place.symlink_to(os.path.relpath(blobs / str(number), place.parent))
    signer = Signer(keys / "public.pem")
    assert of(audit(str(snapshot), signer=signer), "signature") == "proved"
    with (snapshot / "README.md").resolve().open("ab") as file:
        file.write(b"!")
    assert of(audit(str(snapshot), signer=signer), "signature") == "refuted"


def test_a_false_attestation_is_not_signed(
    folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _digit(BOM)(folder)
    reroot(folder)
    assert run(monkeypatch, "sign", folder, "--key", keys / "private.pem") == 1
    assert "an attestation is not what the manifests say" in capsys.readouterr().err
    assert not (folder / SIGNATURE).exists()


ATTEST_ALONE = """
import sys
from scion.common.extras import EXTRA_OF

class Absent:
    def find_spec(self, name, path=None, target=None):
        if EXTRA_OF.get(name.partition(".")[0]) not in (None, "attest"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from scion.cli.main import main
sys.exit(main())
"""


def test_the_extra_that_signs_is_enough_to_sign(folder: Path, keys: Path) -> None:
    command = [sys.executable, "-c", ATTEST_ALONE, "sign", str(folder)]
    command += ["--key", str(keys / "private.pem")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verify_signature(folder, keys)


def test_keys_may_come_through_pipes(folder: Path, keys: Path) -> None:
    program = Path(sys.executable).with_name("scion")
    for words in (
        f"sign {folder} --key <(cat {keys / 'private.pem'})",
        f"audit {folder} --key <(cat {keys / 'public.pem'})",
    ):
        done = subprocess.run(["bash", "-c", f"{program} {words}"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "signature" in done.stdout


def test_links_that_nobody_signed_are_no_part_of_a_signed_release(
    signed: Path, keys: Path, tmp_path: Path
) -> None:
    signer = Signer(keys / "public.pem")
    outside = tmp_path / "outside"
    outside.mkdir()
    (signed / "extra").symlink_to(outside)
    assert of(audit(str(signed), signer=signer), "signature") == "refuted"
    (signed / "extra").unlink()
    assert of(audit(str(signed), signer=signer), "signature") == "proved"
    (signed / "README.md").rename(outside / "README.md")
    (signed / "README.md").symlink_to(outside / "README.md")
    assert of(audit(str(signed), signer=signer), "signature") == "refuted"


def test_a_key_on_another_curve_is_refused_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (
        "ecparam -genkey -name secp256k1 -noout -out k.pem",
        "ec -in k.pem -pubout -out p.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setenv("SCION_SIGNING_KEY", str(tmp_path / "k.pem"))
    with pytest.raises(ScionError) as caught:
        require_pair(tmp_path / "p.pem")
    assert "a key on the curve secp256k1" in str(caught.value.found)


@pytest.mark.parametrize(
    ("name", "found"), [("private.pem", "a private key"), ("none.pem", "No such file or directory")]
)
def test_what_is_no_public_key_is_told_by_the_check_of_a_configuration(
    name: str, found: str, keys: Path
) -> None:
    require_public_key(str(keys / "public.pem"))
    with pytest.raises(ScionError, match="it is no public key") as caught:
        require_public_key(str(keys / name))
    assert caught.value.found == found
