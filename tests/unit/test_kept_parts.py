"""What a release keeps of its source around the quantizer: its own MTP head, its vision tower."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import measured
from checkpoints import edit_json, edit_tensor
from conversion import ENVIRONMENT, Pico, convert_stages
from scion.artifacts.artifact import Artifact, tensor_rows
from scion.artifacts.making import Output
from scion.artifacts.release_layout import GRAFTED, RELEASE
from scion.artifacts.store.store import Store
from scion.checkpoint.release_files import PROCESSOR_FILES
from scion.checkpoint.safetensors_file import digest_safetensors, read_header
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint
from scion.checkpoint.source_parts import NO_PARTS, Kept
from scion.common.errors import ScionError
from scion.common.files import symlink_or_copy
from scion.lint.config import Lint
from scion.quantization.mtp_head import add_own_head
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys
from scion.stages.graft_mtp import graft_mtp
from scion.stages.respell import respell
from scion.stages.verify_release import verify_release
from shared import made_once
from tampering import Change, both, in_json, in_manifest, rehash, told

Made = dict[str, Artifact]
BOTH = Kept(tower=True, head="kept")
TOWER = "model-vision.safetensors"
# The source has its head in two shards.
HEAD = tuple(f"model-mtp-0000{number}-of-00002.safetensors" for number in (1, 2))
BLOCK = "model.visual.patch_embed.proj.weight"
NORM = "model.language_model.layers.0.input_layernorm.weight"


@pytest.fixture(scope="module")
def made(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The base model with its own head and its tower."""

    def make(folder: Path) -> None:
        convert_stages(
            pico.base,
            folder,
            donor=None,
            head="kept",
            calibration=(str(pico.calibration), 1),
            text_only=False,
        )

    folder = made_once(tmp_path_factory, "both-parts", make)
    store = Store.open([str(folder / ".store")])
    return {path.stem: store.open_pointer(path) for path in folder.glob("*.json")}


@pytest.fixture(scope="module")
def release(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as a sealed release."""

    def make(folder: Path) -> None:
        from sealed import sealed

        sealed(made, folder, measured.results(), base=None)

    return made_once(tmp_path_factory, "both-parts-sealed", make) / RELEASE


def put_together(quantized: Artifact, fixed: Artifact, folder: Path, kept: Kept) -> Artifact:
    """The release without a donor."""
    return graft_mtp(
        quantized=quantized,
        fixed=fixed,
        donor=None,
        kept=kept,
        output=Output.at(folder),
        environment=ENVIRONMENT,
    )


def parts(made: Made) -> tuple[set[str], set[str]]:
    """The names of the source's head and tower."""
    names = made["fix_keys"].tensors().keys() - made["extract_text"].tensors().keys()
    head = {name for name in names if name.startswith("mtp.")}
    assert (len(head), len(names - head)) == (15, 33)
    return head, names - head


def test_head_and_tower_are_the_sources_and_the_quantizer_saw_neither(made: Made) -> None:
    head, tower = parts(made)
    source, rows = made["fetch_source"].tensors(), made["graft_mtp"].tensors()
    assert rows.keys() == made["quantize_nvfp4"].tensors().keys() | head | tower
    for names, shards in ((head, HEAD), (tower, (TOWER,))):
        for name in names:
            sha256 = source[name]["sha256"]
            assert rows[name]["sha256"] == sha256
            assert rows[name]["origin"] == {"from": "source", "sha256": sha256}
            assert rows[name]["file"] in shards
    folder = made["graft_mtp"].folder
    index = json.loads((folder / INDEX).read_bytes())
    assert index["weight_map"] == {name: row["file"] for name, row in rows.items()}
    facts = made["graft_mtp"].facts
    assert facts["source_shards"] == [*HEAD, TOWER]
    assert (facts["mtp_origin"], facts["mtp_tensors"], facts["vision_tensors"]) == (
        "source",
        15,
        33,
    )
    assert facts["text_only"] is False


def test_the_release_declares_both(made: Made) -> None:
    folder, source = made["graft_mtp"].folder, made["fetch_source"].folder
    config = json.loads((folder / CONFIG).read_bytes())
    scheme = config.pop("quantization_config")
    assert config == json.loads((source / CONFIG).read_bytes())
    assert {"mtp*", "model.visual*", "lm_head"} <= set(scheme["ignore"])
    sidecar = json.loads((folder / "hf_quant_config.json").read_bytes())
    assert sidecar["quantization"]["exclude_modules"] == scheme["ignore"]
    processors = {name for name in PROCESSOR_FILES if (source / name).exists()}
    assert processors
    for name in processors:
        assert (folder / name).samefile(made["fix_keys"].folder / name)
    assert made["verify_release"].facts["tensors"] == len(made["graft_mtp"].tensors())


def test_in_the_other_spelling_too(made: Made, tmp_path: Path) -> None:
    quantized = respell(
        quantized=made["quantize_nvfp4"],
        spelling="compressed-tensors",
        output=Output.at(tmp_path / "respell"),
        environment=ENVIRONMENT,
    )
    packed = put_together(quantized, made["fix_keys"], tmp_path / "graft_mtp", BOTH)
    ignored = json.loads((packed.folder / CONFIG).read_bytes())["quantization_config"]["ignore"]
    assert {r"re:(model\.)?visual.*$", "lm_head"} <= set(ignored)
    assert not (packed.folder / "hf_quant_config.json").exists()
    proven = verify_release(
        release=packed,
        fixed=made["fix_keys"],
        donor=None,
        output=Output.at(tmp_path / "verify_release"),
        settings=Lint(),
        environment=ENVIRONMENT,
    )
    assert proven.facts["tensors"] == made["verify_release"].facts["tensors"]


def test_no_config_that_stays_names_code(made: Made, pico: Pico, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    shutil.copytree(pico.base, folder)
    for name in (CONFIG, "preprocessor_config.json"):
        edit_json(folder / name, lambda config: config.update(auto_map={"AutoModel": "own.Model"}))
    fixed = fixed_of(folder, tmp_path)
    release = put_together(made["quantize_nvfp4"], fixed, tmp_path / "release", BOTH)
    assert release.facts["code_references_removed"] == {
        CONFIG: ["auto_map"],
        "preprocessor_config.json": ["auto_map"],
    }
    for name in (CONFIG, "preprocessor_config.json"):
        assert "auto_map" in (fixed.folder / name).read_text()
        assert "auto_map" not in (release.folder / name).read_text()


def test_of_an_architecture_without_tower_none_is_kept(
    made: Made, pico: Pico, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in made["extract_text"].files.keys() - {"tensors.json"}:
        shutil.copy(made["extract_text"].folder / name, folder / name)
    shutil.copy(pico.base / "preprocessor_config.json", folder)
    for head in ("removed", "absent"):
        release = put_together(
            made["quantize_nvfp4"],
            fixed_of(folder, tmp_path),
            tmp_path / head,
            Kept(tower=True, head=head),
        )
        assert release.facts["text_only"] is True
        assert "preprocessor_config.json" not in release.files


def fixed_of(folder: Path, work: Path) -> Artifact:
    source = fetch_source(
        location=str(folder), output=Output.at(work / "fetch_source"), environment=ENVIRONMENT
    )
    return fix_keys(source=source, output=Output.at(work / "fix_keys"), environment=ENVIRONMENT)


def test_a_head_that_would_be_lost_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ScionError, match="has an MTP head of its own"):
        put_together(made["quantize_nvfp4"], made["fix_keys"], tmp_path / "release", NO_PARTS)
    assert not (tmp_path / "release").exists()


def test_a_tower_that_is_not_finite_is_found(made: Made, pico: Pico, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    shutil.copytree(pico.base, folder)

    def spoil(raw: bytearray) -> None:
        raw[:2] = b"\xc0\x7f"

    edit_tensor(folder, BLOCK, spoil)
    fixed = fixed_of(folder, tmp_path)
    release = put_together(made["quantize_nvfp4"], fixed, tmp_path / "release", BOTH)
    with pytest.raises(ScionError, match="a weight of the vision tower is not finite") as caught:
        verify_release(
            release=release,
            fixed=fixed,
            donor=None,
            output=Output.at(tmp_path / "report"),
            settings=Lint(),
            environment=ENVIRONMENT,
        )
    assert caught.value.where == f"{fixed.folder}: {BLOCK}"


def test_the_own_head_beside_a_checkpoint_that_is_no_artifact(made: Made, tmp_path: Path) -> None:
    text = made["extract_text"]
    for name in text.files.keys() - {"tensors.json"}:
        symlink_or_copy(text.folder / name, tmp_path / name)
    before = (text.folder / CONFIG).read_bytes()
    add_own_head(tmp_path, made["fix_keys"])
    assert (text.folder / CONFIG).read_bytes() == before
    whole = Checkpoint.open(tmp_path)
    head, _ = parts(made)
    assert whole.shard_of.keys() == text.tensors().keys() | head
    source = made["fix_keys"].tensors()
    for shard in {whole.shard_of[name] for name in head}:
        for name, sha256 in digest_safetensors(tmp_path / shard).tensors.items():
            assert sha256 == source[name]["sha256"]
    assert whole.config["text_config"]["mtp_num_hidden_layers"] == 1


# The check of a release that somebody has altered who writes digests anew


def test_a_release_that_nobody_altered_is_sound(release: Path) -> None:
    assert told(release) == []


def rewritten(folder: Path, shard: str, *, origin: dict[str, str] | None = None) -> None:
    """Let tensors.json say what a shard holds; `origin` for tensors that it did not have before."""
    digests = digest_safetensors(folder / shard).tensors
    rows = tensor_rows(read_header(folder / shard), shard, digests)

    def change(table: Any) -> None:
        for name, row in rows.items():
            table[name] = {**row, "origin": table.get(name, {}).get("origin", origin)}

    edit_json(folder / "tensors.json", change)


def spoiled(name: str) -> Change:
    """Other numbers, said to be what quantizing has made of the source's."""

    def ones(raw: bytearray) -> None:
        raw[:] = b"\x80\x3f" * (len(raw) // 2)

    def change(folder: Path) -> None:
        edit_tensor(folder, name, ones)
        rewritten(folder, Checkpoint.open(folder).shard_of[name])
        origin = {"from": "quantized"}
        edit_json(folder / "tensors.json", lambda table: table[name]["origin"].update(origin))

    return change


def more(shard: str, name: str, *, listed: bool) -> Change:
    """A shard more, with a tensor of zeros."""
    source = "provenance/tensors/fix_keys.json"

    def change(folder: Path) -> None:
        header = json.dumps(
            {name: {"dtype": "BF16", "shape": [8], "data_offsets": [0, 16]}}
        ).encode()
        (folder / shard).write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        if listed:
            row = json.loads((folder / source).read_bytes())[NORM]
            rewritten(folder, shard, origin={"from": "quantized", "sha256": row["sha256"]})
            edit_json(folder / INDEX, lambda index: index["weight_map"].update({name: shard}))
        in_manifest(GRAFTED, lambda made: made["facts"]["source_shards"].append(shard))(folder)
        in_manifest(GRAFTED, lambda made: made["files"].update({shard: {}}))(folder)

    return change


def without_tower(folder: Path) -> None:
    """The tower gone, and with it all that the index and the table say of it."""
    tower = set(digest_safetensors(folder / TOWER).tensors)
    (folder / TOWER).unlink()

    def drop(table: Any) -> None:
        for name in tower:
            del table[name]

    edit_json(folder / "tensors.json", drop)
    edit_json(folder / INDEX, lambda index: drop(index["weight_map"]))
    in_manifest(GRAFTED, lambda made: made["files"].pop(TOWER))(folder)


TEXT_ONLY = {"text_only": True, "vision_tensors": 0, "source_shards": list(HEAD)}
LOST = f"{NORM.removesuffix('weight')}pre_quant_scale"
ALTERED: dict[str, tuple[Change, str]] = {
    "a number of the tower": (spoiled(BLOCK), f"{TOWER}: {BLOCK} is of no stage before"),
    "a number of the head": (spoiled("mtp.norm.weight"), "mtp.norm.weight is of no stage before"),
    "an invented tensor": (
        more("model-zzz.safetensors", LOST, listed=True),
        f"model-zzz.safetensors: {LOST} is of no stage before",
    ),
    "a tensor twice": (
        more("a.safetensors", NORM, listed=False),
        f"{NORM} stands in a.safetensors as well",
    ),
    "no tower": (without_tower, "provenance/graft_mtp.json: its fact vision_tensors is not what"),
    "no tower, and none told of": (
        both(without_tower, in_manifest(GRAFTED, lambda made: made["facts"].update(TEXT_ONLY))),
        "provenance/verify_release.json: its fact tensors is not what the shards have",
    ),
    "a part of the tower": (
        in_json("provenance/tensors/fix_keys.json", lambda table: table.pop(BLOCK) and None),
        f"{TOWER}: {BLOCK} is of no stage before",
    ),
}


@pytest.mark.parametrize(("change", "line"), ALTERED.values(), ids=ALTERED)
def test_what_is_altered_around_the_quantizer_is_found(
    release: Path, tmp_path: Path, change: Change, line: str
) -> None:
    folder = shutil.copytree(release, tmp_path / "release")
    change(folder)
    rehash(folder)
    lines = told(folder)
    assert any(line in each for each in lines), lines
