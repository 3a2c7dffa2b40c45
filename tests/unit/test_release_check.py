"""`scion check` of a sealed release that somebody, or a disk, has altered."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import edit_json
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_layout import SUMS, table_file
from scion.cli.main import main
from tampering import (
    GRAFT,
    HEAD,
    SHARD,
    ZEROS,
    Change,
    added,
    both,
    copied,
    doubled,
    edit_manifest,
    flipped,
    in_json,
    in_manifest,
    manifest_of,
    named,
    rehash,
    removed,
    replaced,
    reroot,
    told,
)

SCALE = "model.language_model.layers.0.linear_attn.in_proj_qkv.weight_scale_2"
WEIGHT = "model.language_model.layers.0.linear_attn.in_proj_qkv.weight"
NORM = "model.language_model.layers.0.input_layernorm.weight"
HEAD_NORM = "mtp.norm.weight"
SOURCE_TABLE, FIXED_TABLE, TEXT_TABLE, QUANTIZED_TABLE, DONOR_TABLE = (
    table_file(stage)
    for stage in ("fetch_source", "fix_keys", "extract_text", "quantize_nvfp4", "fetch_donor")
)
RESULTS = "provenance/results"
MEASURED = ("serving", "agent_tasks", "quality", "ifeval", "bfcl")


@pytest.fixture
def folder(sealed_release: Path, tmp_path: Path) -> Path:
    """A copy of the release, as somebody else has it."""
    return shutil.copytree(sealed_release, tmp_path / "release")


def test_a_release_that_nobody_altered_is_sound(sealed_release: Path, folder: Path) -> None:
    assert told(sealed_release) == told(folder) == []


def test_what_the_hub_and_its_clients_add_is_named_and_no_fault(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".gitattributes").touch()
    for inner in (".cache/huggingface/download", ".git/objects"):
        (folder / inner).mkdir(parents=True)
        (folder / inner / "file").touch()
    assert told(folder) == []
    monkeypatch.setattr(sys, "argv", ["scion", "check", str(folder)])
    assert main() == 0
    out = capsys.readouterr().out
    assert "beside them, not read: .cache/huggingface/, .git/, .gitattributes\n" in out


@pytest.mark.parametrize(
    "name",
    [
        *(".cache/huggingface", ".git", ".gitattributes/x", ".cache/x", ".cache/huggingface.json"),
        *("pictures/.git/x", "pictures/.gitattributes", ".gitattributes.json"),
    ],
)
def test_what_only_looks_so_is_a_fault(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    assert named(told(folder)) == {name}


@pytest.mark.parametrize("name", [".cache/huggingface", ".git", ".gitattributes"])
def test_a_link_of_such_a_name_is_a_fault(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(tmp_path)
    assert named(told(folder)) == {name}


def test_a_snapshot_of_the_hub_s_cache_is_read_through_its_links(
    sealed_release: Path, tmp_path: Path
) -> None:
    blobs = tmp_path / "models--owner--name/blobs"
    snapshot = blobs.parent / "snapshots/0123"
    for path in (path for path in sealed_release.rglob("*") if path.is_file()):
        name = path.relative_to(sealed_release)
        blob, link = blobs / str(name).replace("/", "-"), snapshot / name
        for place in (blob, link):
            place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link.symlink_to(blob)
    assert told(snapshot) == []
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(sealed_release / "config.json")
    assert named(told(snapshot)) == {"config.json"}


# Files that are altered, and SHA256SUMS and manifest.json with them


def first_number(value: Any) -> bool:
    """Make the first number of a record larger; whether there is one."""
    for key in value if isinstance(value, dict) else range(len(value)):
        if isinstance(value[key], (int, float)) and not isinstance(value[key], bool):
            value[key] += 1
            return True
        if isinstance(value[key], dict | list) and first_number(value[key]):
            return True
    return False


def in_facts(**facts: Any) -> Callable[[Any], None]:
    return lambda manifest: manifest["facts"].update(facts)


def with_origin(**origin: str) -> Callable[[Any], None]:
    """Let a quantized tensor come from elsewhere."""
    return lambda table: table[SCALE]["origin"].update(origin)


REROOTED: dict[str, tuple[Change, str]] = {
    "a number of the card": (replaced("README.md", "107 of 110", "108 of 110"), "README.md"),
    "a command of the card": (replaced("README.md", "vllm serve", "vllm  serve"), "README.md"),
    "the card's licence": (replaced("README.md", "apache-2.0", "mit"), "README.md"),
    "the card's digests": (replaced("README.md", "`sha256:", "`sha256:0"), "README.md"),
    "an empty card": (added("README.md", b""), "README.md"),
    "a card in other bytes": (added("README.md", b"\xff\xfe"), "README.md"),
    "no card": (removed("README.md"), "README.md"),
    **{
        f"a number of {name}.json": (
            in_json(f"{RESULTS}/{name}.json", lambda value: first_number(value) and None),
            f"{RESULTS}/{name}.json",
        )
        for name in MEASURED
    },
    "the verification": (
        in_json(f"{RESULTS}/verification.json", lambda value: first_number(value) and None),
        f"{RESULTS}/verification.json",
    ),
    "no result": (removed(f"{RESULTS}/serving.json"), f"{RESULTS}/serving.json"),
    "one result more": (added(f"{RESULTS}/more.json", b"{}"), f"{RESULTS}/more.json"),
    "a result for another": (
        copied(f"{RESULTS}/ifeval.json", f"{RESULTS}/bfcl.json"),
        f"{RESULTS}/bfcl.json",
    ),
    "a picture with a script": (
        replaced("pictures/speed.svg", "</svg>", "<script>alert(1)</script></svg>"),
        "pictures/speed.svg",
    ),
    "no picture": (removed("pictures/speed.svg"), "pictures/speed.svg"),
    "one picture more": (added("pictures/more.svg"), "pictures/more.svg"),
    "a scale twice as large": (doubled(SCALE), "model-00001-of-00003.safetensors"),
    "no shard": (removed(SHARD), SHARD),
    "a shard for another": (copied(HEAD, SHARD), SHARD),
    "one shard more": (copied(SHARD, "model-more.safetensors"), "model-more.safetensors"),
    "one bit of the head": (lambda folder: flipped(folder / HEAD, -1, 0), HEAD),
    "config.json": (in_json("config.json", lambda config: {**config, "a": 1}), "config.json"),
    "the declared scheme": (
        in_json("hf_quant_config.json", lambda config: {**config, "a": 1}),
        "hf_quant_config.json",
    ),
    "the index": (
        replaced("model.safetensors.index.json", SHARD, HEAD),
        "model.safetensors.index.json",
    ),
    "the chat template": (added("chat_template.jinja", b"{{ 1 }}"), "chat_template.jinja"),
    "the tokenizer": (replaced("tokenizer.json", "{", "{ "), "tokenizer.json"),
    "the tokenizer's settings": (
        in_json("tokenizer_config.json", lambda config: {**config, "auto_map": {}}),
        "tokenizer_config.json",
    ),
    "how it generates": (added("generation_config.json", b"{}"), "generation_config.json"),
    "the tensor table": (
        in_json("tensors.json", lambda table: table[SCALE].update(sha256=ZEROS)),
        "tensors.json",
    ),
    "no tensor table": (removed("tensors.json"), "tensors.json"),
    "an origin's digest": (in_json("tensors.json", with_origin(sha256=ZEROS)), "tensors.json"),
    "a table of an earlier checkpoint": (
        in_json(TEXT_TABLE, lambda table: table[WEIGHT].update(sha256=ZEROS)),
        TEXT_TABLE,
    ),
    "no table of an earlier checkpoint": (removed(TEXT_TABLE), TEXT_TABLE),
    "one table more": (
        copied(TEXT_TABLE, "provenance/tensors/more.json"),
        "provenance/tensors/more.json",
    ),
    "code beside it": (added("modeling.py", b"import os"), "modeling.py"),
    "a pickle beside it": (added("pytorch_model.bin"), "pytorch_model.bin"),
    "a hidden file beside it": (added(".env"), ".env"),
    "a name that steers a terminal": (added("\x1b[2J"), MANIFEST),
    # Provenance
    **{
        f"no {stage}": (removed(f"provenance/{stage}.json"), f"provenance/{stage}.json")
        for stage in ("graft_mtp", "fetch_donor", "measure_serving", "render_card", "lint_source")
    },
    "another stage's manifest": (
        copied("provenance/fetch_source.json", "provenance/fetch_donor.json"),
        "provenance/fetch_donor.json",
    ),
    "one manifest more": (copied(GRAFT, "provenance/more.json"), "provenance/more.json"),
    "settings of a stage": (
        in_json("provenance/quantize_nvfp4.json", lambda made: made["settings"].update(a=1)),
        "provenance/quantize_nvfp4.json",
    ),
    **{
        f"{key} of a stage, with its own digests": (
            in_manifest(
                "quantize_nvfp4", lambda made, key=key, value=value: made.update({key: value})
            ),
            file,
        )
        for key, value, file in (
            ("code", "sha256:other", MANIFEST),
            ("facts", {}, GRAFT),
            ("files", {}, GRAFT),
        )
    },
    "a renamed stage": (
        in_manifest("graft_mtp", lambda made: made.update(stage="graft")),
        GRAFT,
    ),
    "a manifest in another layout": (
        lambda folder: edit_json(folder / GRAFT, lambda made: None),
        GRAFT,
    ),
    "a key that stands twice": (replaced(GRAFT, "{", '{"stage": "other",'), GRAFT),
    # The seal's own manifest
    "another stage sealed it": (
        in_manifest(MANIFEST, lambda made: made.update(stage="fix_keys")),
        MANIFEST,
    ),
    "another stage, and a scale twice as large": (
        both(doubled(SCALE), in_manifest(MANIFEST, lambda made: made.update(stage="fix_keys"))),
        "model-00001-of-00003.safetensors",
    ),
    "another stage, and a manifest less": (
        both(removed(GRAFT), in_manifest(MANIFEST, lambda made: made.update(stage="x"))),
        GRAFT,
    ),
    "the fact of the weights": (
        in_manifest(MANIFEST, in_facts(weights="sha256:other")),
        MANIFEST,
    ),
    "the fact of the card": (in_manifest(MANIFEST, in_facts(card="sha256:other")), MANIFEST),
    "no facts": (in_manifest(MANIFEST, lambda made: made.update(facts={})), MANIFEST),
    "an input less": (
        in_manifest(MANIFEST, lambda made: made["made_from"].pop("verify_release")),
        MANIFEST,
    ),
    "no inputs": (in_manifest(MANIFEST, lambda made: made.update(made_from={})), MANIFEST),
    "an input of another root": (
        in_manifest(MANIFEST, lambda made: made["made_from"]["graft_mtp"].update(root="x")),
        MANIFEST,
    ),
    "an input of another stage": (
        in_manifest(
            MANIFEST,
            lambda made: made["made_from"].update(fix_keys=made["made_from"]["fetch_donor"]),
        ),
        MANIFEST,
    ),
}


@pytest.mark.parametrize(("change", "file"), REROOTED.values(), ids=REROOTED)
def test_what_is_altered_with_the_release_s_own_digests_is_found_and_named(
    folder: Path, change: Change, file: str
) -> None:
    change(folder)
    reroot(folder)
    assert file in named(told(folder))


def test_sums_that_name_another_digest_are_found(folder: Path) -> None:
    text = (folder / SUMS).read_text()
    (folder / SUMS).write_text(text.replace(text[:64], ZEROS))
    reroot(folder, mend_sums=False)
    assert named(told(folder)) == {SUMS}


# The same, with the digests of every manifest written anew


def change_origin(row: Any, change: str) -> None:
    """Let a row say otherwise where its tensor comes from, or nothing."""
    origin = row["origin"]
    if change == "digest":
        origin["sha256"] = ZEROS
    elif change == "from":
        origin["from"] = "donor" if origin["from"] == "source" else "source"
    elif change == "more":
        origin["name"] = "other"
    else:
        row.update(origin=None) if change == "none" else row.pop("origin")


def rewrite_card(folder: Path, old: str, new: str) -> None:
    text = (folder / "README.md").read_text()
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new))


def zero_origins(table: Any) -> None:
    """Let the tensors of a module come from a weight of no bytes that there are."""
    wanted = table[WEIGHT]["origin"]["sha256"]
    for row in table.values():
        if row["origin"]["sha256"] == wanted:
            row["origin"]["sha256"] = ZEROS


REHASHED: dict[str, tuple[Change, str]] = {
    "a scale twice as large": (doubled(SCALE), GRAFT),
    "one bit of the head": (lambda folder: flipped(folder / HEAD, -1, 0), GRAFT),
    "one shard more": (
        both(
            copied(HEAD, "more.safetensors"),
            in_manifest(
                "graft_mtp",
                lambda made: made["files"].update({"more.safetensors": made["files"][HEAD]}),
            ),
        ),
        GRAFT,
    ),
    "a scale twice as large in two records, not in the table": (
        both(doubled(SCALE), lambda folder: take_over(folder, "quantize_nvfp4", "graft_mtp")),
        "tensors.json",
    ),
    "the chat template": (added("chat_template.jinja", b"{{ 1 }}"), GRAFT),
    "the tokenizer": (replaced("tokenizer.json", "{", "{ "), GRAFT),
    "the tensor table": (
        in_json("tensors.json", lambda table: table[SCALE].update(sha256=ZEROS)),
        "tensors.json",
    ),
    **{
        f"the origin of {name}: {change}": (
            in_json(
                "tensors.json",
                lambda table, name=name, change=change: change_origin(table[name], change),
            ),
            "tensors.json",
        )
        for name in (SCALE, WEIGHT, NORM, HEAD_NORM)
        for change in ("digest", "from", "gone", "none", "more")
    },
    "an origin of another tensor": (
        in_json("tensors.json", lambda table: table[WEIGHT].update(origin=table[NORM]["origin"])),
        "tensors.json",
    ),
    **{
        f"a digest in {table}": (
            in_json(table, lambda rows: next(iter(rows.values())).update(sha256=ZEROS)),
            table,
        )
        for table in (SOURCE_TABLE, FIXED_TABLE, TEXT_TABLE, QUANTIZED_TABLE, DONOR_TABLE)
    },
    "a shape of the source": (
        in_json(SOURCE_TABLE, lambda rows: next(iter(rows.values())).update(shape=[1])),
        SOURCE_TABLE,
    ),
    "a tensor less in the source": (
        in_json(SOURCE_TABLE, lambda rows: rows.pop(next(iter(rows))) and None),
        FIXED_TABLE,
    ),
    "a tensor more in the source": (
        in_json(SOURCE_TABLE, lambda rows: rows.update(more={**rows[next(iter(rows))]})),
        SOURCE_TABLE,
    ),
    "an origin, and the text model with it": (
        both(
            in_json("tensors.json", with_origin(sha256=ZEROS)),
            in_json(TEXT_TABLE, lambda rows: rows[WEIGHT].update(sha256=ZEROS)),
        ),
        TEXT_TABLE,
    ),
    "an origin, and the way to it but the source": (
        both(
            in_json("tensors.json", lambda table: zero_origins(table)),
            in_json(TEXT_TABLE, lambda rows: rows[WEIGHT].update(sha256=ZEROS)),
            in_json(FIXED_TABLE, lambda rows: rows[WEIGHT].update(sha256=ZEROS)),
        ),
        FIXED_TABLE,
    ),
    "the index": (
        replaced("model.safetensors.index.json", SHARD, HEAD),
        "model.safetensors.index.json",
    ),
    "the recipe that the graft tells": (in_manifest("graft_mtp", in_facts(recipe={})), GRAFT),
    "the donor that the graft tells": (in_manifest("graft_mtp", in_facts(donor="x")), GRAFT),
    "the head that the graft tells": (in_manifest("graft_mtp", in_facts(mtp_tensors=0)), GRAFT),
    "another text was quantized": (
        lambda folder: reconnect(folder, "quantize_nvfp4", "text", "fix_keys"),
        "provenance/quantize_nvfp4.json",
    ),
    "another checkpoint was verified": (
        lambda folder: reconnect(folder, "verify_release", "release", "quantize_nvfp4"),
        "provenance/verify_release.json",
    ),
    "another checkpoint was measured": (
        lambda folder: reconnect(folder, "measure_serving", "release", "quantize_nvfp4"),
        "provenance/measure_serving.json",
    ),
    "nothing was verified": (
        lambda folder: leave_out(folder, "verify_release"),
        "provenance/verify_release.json",
    ),
    "no scores, though the card shows them": (
        lambda folder: leave_out(folder, "evaluate_bfcl"),
        "README.md",
    ),
    "the card names another version": (
        lambda folder: rewrite_card(folder, "Scion 0.1.0", "Scion 9.9.9"),
        "README.md",
    ),
    "the card names another commit": (
        replaced("README.md", "commit `c0", "commit `dd"),
        "README.md",
    ),
    "the card installs another commit": (replaced("README.md", "@c0ff", "@dead"), "README.md"),
    "the card installs from elsewhere": (
        replaced("README.md", "git+https://github.com/owner", "git+https://github.com/other"),
        "README.md",
    ),
    "the seal says that another Scion made it": (
        in_manifest(MANIFEST, in_facts(made_by={"version": "9.9.9"})),
        MANIFEST,
    ),
    "the card's manifest does not say which Scion made it": (
        in_manifest("render_card", lambda made: made["facts"].pop("made_by")),
        "provenance/render_card.json",
    ),
    "the card's manifest says of another form which Scion made it": (
        in_manifest("render_card", in_facts(made_by=[])),
        "provenance/render_card.json",
    ),
    "the card names another digest": (
        replaced("README.md", "| graft_mtp | `sha256:", "| graft_mtp | `sha256:0"),
        "README.md",
    ),
}


def take_over(folder: Path, stage: str, later: str) -> None:
    """Let a stage have made what lies in the release under its files' names."""
    rehash(folder)
    files = json.loads(manifest_of(folder, later).read_text())["files"]

    def change(manifest: Any) -> None:
        given = {name: files[name] for name in manifest["files"] if name.startswith("model-")}
        manifest["files"] |= given

    edit_manifest(manifest_of(folder, stage), change)


def reconnect(folder: Path, stage: str, name: str, source: str) -> None:
    def change(manifest: Any) -> None:
        manifest["made_from"][name]["stage"] = source

    edit_manifest(manifest_of(folder, stage), change)


def leave_out(folder: Path, stage: str) -> None:
    """Take a stage out of every manifest, and its files out of the release."""
    made = json.loads(manifest_of(folder, stage).read_text())
    for name in made["files"]:
        (folder / RESULTS / name).unlink()
    manifest_of(folder, stage).unlink()
    for path in (manifest_of(folder, "render_card"), folder / MANIFEST):
        edit_manifest(path, lambda manifest: manifest["made_from"].pop(stage))


@pytest.mark.parametrize(("change", "file"), REHASHED.values(), ids=REHASHED)
def test_what_is_altered_with_every_digest_is_found_where_two_records_part(
    folder: Path, change: Change, file: str
) -> None:
    change(folder)
    rehash(folder)
    assert file in named(told(folder))


def test_a_release_that_is_rehashed_as_it_is_stays_sound(folder: Path) -> None:
    rehash(folder)
    assert told(folder) == []
