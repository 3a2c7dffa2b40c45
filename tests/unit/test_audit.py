"""`scion audit`: what source and donor prove of a release, and what they contradict."""

import json
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import measured
from checkpoints import edit_json, edit_tensor
from conversion import Conversion, Pico, convert
from scion.artifacts.release_layout import CARD, RELEASE
from scion.audit.audit import ReleaseAudit, audit
from scion.audit.derivation import Derived, derive, is_largest
from scion.audit.stored import StoredModule
from scion.audit.verdict import ProofLevel
from scion.audit.weights import RangedCheckpoint
from scion.checkpoint.shards import Checkpoint
from scion.cli.main import main
from scion.formats.packing import pack
from scion.formats.spellings import SPELLINGS
from shared import made_once
from tampering import (
    HEAD,
    SHARD,
    Change,
    doubled,
    edit_manifest,
    flipped,
    in_json,
    manifest_of,
    named,
    rehash,
    removed,
    replaced,
    told,
)

LAYER = "model.language_model.layers.0"
PROJECTION = f"{LAYER}.linear_attn.in_proj_qkv"
FLIPS = 320


def outcomes(found: ReleaseAudit) -> dict[str, str]:
    """The outcome by part."""
    return {verdict.part: verdict.outcome.value for verdict in found.verdicts}


def refuted(found: ReleaseAudit) -> dict[str, list[str]]:
    """By part the subjects of what contradicts it."""
    return {
        verdict.part: [fault.subject for fault in verdict.faults]
        for verdict in found.verdicts
        if verdict.outcome is ProofLevel.REFUTED
    }


def of_pico(release: Path, pico: Pico) -> ReleaseAudit:
    """The audit of a release of the embedded pair."""
    return audit(str(release), source=str(pico.agent), donor=str(pico.base))


def test_source_and_donor_prove_a_release(sealed_release: Path, pico: Pico) -> None:
    found = of_pico(sealed_release, pico)
    assert outcomes(found) == {
        "seal": "proved",
        "attestations": "proved",
        "lint": "proved",
        "names": "proved",
        "unchanged tensors": "proved",
        "vision tower": "proved",
        "quantized weights": "proved",
        "activation scales": "unproved",
        "MTP head": "proved",
        "configuration": "proved",
    }
    assert not found.refuted
    assert found.root is not None


def test_what_was_not_given_is_not_proved(sealed_release: Path, pico: Pico) -> None:
    alone = outcomes(audit(str(sealed_release)))
    assert alone == {
        "seal": "proved",
        "attestations": "proved",
        "lint": "proved",
        "tensors and configuration": "unproved",
    }
    headed = outcomes(audit(str(sealed_release), donor=str(pico.base)))
    assert headed == {**alone, "MTP head": "proved"}
    sourced = outcomes(audit(str(sealed_release), source=str(pico.agent)))
    assert sourced["MTP head"] == "unproved"


def test_a_release_without_manifest_is_audited_by_its_config(release: Path, pico: Pico) -> None:
    found = outcomes(of_pico(release, pico))
    assert found["seal"] == "unproved"
    assert found["quantized weights"] == found["MTP head"] == "proved"


def test_fp8_and_weights_alone_are_derived(
    mixed: Conversion, weights_alone: Conversion, pico: Pico
) -> None:
    for made in (mixed, weights_alone):
        found = of_pico(made.graft_mtp.folder, pico)
        assert not found.refuted, refuted(found)
        assert outcomes(found)["quantized weights"] == "proved"


@pytest.fixture(scope="module")
def searched(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed release whose block scales were chosen by the outputs of samples."""

    def make(folder: Path) -> None:
        from sealed import sealed

        sealed(convert(pico, folder, recipe="local_hessian"), folder, measured.results())

    return made_once(tmp_path_factory, "searched", make) / RELEASE


def test_what_samples_chose_is_bounded_and_with_them_proved(searched: Path, pico: Pico) -> None:
    bounded = of_pico(searched, pico)
    assert outcomes(bounded)["quantized weights"] == "bounded"
    assert "full derivation" not in outcomes(bounded)
    deep = audit(str(searched), source=str(pico.agent), donor=str(pico.base), deep=True)
    assert outcomes(deep)["full derivation"] == "proved", refuted(deep)


def test_other_samples_are_found_by_deriving_in_full(
    searched: Path, tmp_path: Path, pico: Pico
) -> None:
    folder = shutil.copytree(searched, tmp_path / "release")
    for module in PARTS[:3]:
        _scaled(f"{module}.input_scale", 4)(folder)
    rehash(folder)
    assert outcomes(of_pico(folder, pico))["activation scales"] != "proved"
    deep = audit(str(folder), source=str(pico.agent), deep=True)
    assert len(refuted(deep)["full derivation"]) == 3


def test_samples_that_are_not_at_hand_prove_nothing(
    searched: Path, tmp_path: Path, pico: Pico
) -> None:
    folder = shutil.copytree(searched, tmp_path / "release")
    quantized = manifest_of(folder, "quantize_nvfp4")
    edit_manifest(
        quantized,
        lambda manifest: manifest["made_from"]["calibration_1"].update(sha256="0" * 64),
    )
    rehash(folder)
    deep = audit(str(folder), source=str(pico.agent), deep=True)
    assert outcomes(deep)["full derivation"] == "unproved"


def test_flipped_bits_are_found_and_named(sealed_release: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    texts = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.suffix in (".json", ".md", ".jinja") or path.name == "SHA256SUMS"
    )
    chance = random.Random(0)
    counts = Counter[str]()
    for number in range(FLIPS):
        kind = ("weights", "scales", "header", "text", "card")[number % 5]
        name = CARD if kind == "card" else chance.choice(texts if kind == "text" else shards)
        path = folder / name
        position, tensor = _place(path, kind, chance)
        bit = chance.randrange(8)
        flipped(path, position, bit)
        lines = told(folder)
        assert name in named(lines), (kind, name, position, bit)
        if tensor is not None:
            assert any(tensor in line for line in lines), (kind, tensor, position, bit)
        counts[kind] += 1
        flipped(path, position, bit)
    assert told(folder) == []
    assert sum(counts.values()) == FLIPS


def _place(path: Path, kind: str, chance: random.Random) -> tuple[int, str | None]:
    """A random byte of a kind, and the tensor that has it."""
    if path.suffix != ".safetensors":
        return chance.randrange(path.stat().st_size), None
    from scion.checkpoint.safetensors_file import read_header

    header = read_header(path)
    if kind == "header":
        return chance.randrange(header.data_start), None
    tensors = list(header.tensors.values())
    scales = [tensor for tensor in tensors if "scale" in tensor.name]
    tensor = chance.choice(scales if kind == "scales" and scales else tensors)
    return header.data_start + tensor.begin + chance.randrange(tensor.size), tensor.name


def _swapped(first: str, second: str) -> Change:
    """Two tensors of one form, each with the bytes of the other."""

    def change(folder: Path) -> None:
        checkpoint = Checkpoint.open(folder)
        raw = [_raw(checkpoint, name) for name in (first, second)]
        for name, other in zip((first, second), reversed(raw), strict=True):
            edit_tensor(
                folder, name, lambda content, other=other: content.__setitem__(slice(None), other)
            )

    return change


def _raw(checkpoint: Checkpoint, name: str) -> bytes:
    piece = checkpoint.piece(name)
    with piece.path.open("rb") as file:
        file.seek(piece.offset)
        return file.read(piece.tensor.size)


def _scaled(name: str, factor: float) -> Change:
    """A float32 scalar times a power of two."""

    def change(raw: bytearray) -> None:
        number = torch.frombuffer(raw, dtype=torch.float32)
        number *= factor

    return lambda folder: edit_tensor(folder, name, change)


def _block_scale(name: str, block: int) -> Change:
    """A block's scale twice as large, to E4M3."""

    def change(raw: bytearray) -> None:
        scales = torch.frombuffer(raw, dtype=torch.uint8)
        scales[block] += 8

    return lambda folder: edit_tensor(folder, name, change)


def _bytes_of(name: str, seed: int) -> Change:
    """A few other bytes in a tensor."""

    def change(raw: bytearray) -> None:
        place = random.Random(seed).randrange(len(raw) - 1)
        raw[place] ^= 0x11

    return lambda folder: edit_tensor(folder, name, change)


def _other_model(folder: Path) -> None:
    """A module packed soundly, with maximum scales, of another weight than the source's."""
    checkpoint = Checkpoint.open(folder)
    scale = torch.frombuffer(
        bytearray(_raw(checkpoint, f"{PROJECTION}.weight_scale_2")), dtype=torch.float32
    )[0]
    rows, half = checkpoint.tensor(f"{PROJECTION}.weight").shape
    torch.manual_seed(0)
    weight = torch.randn(rows, 2 * half).to(torch.bfloat16)
    largest = weight.abs().amax().float()
    codes, scales = pack((weight * (scale * 2688 / largest)).to(torch.bfloat16), scale)
    for suffix, made in (("weight", codes), ("weight_scale", scales.view(torch.uint8))):
        raw = made.numpy().tobytes()
        edit_tensor(
            folder,
            f"{PROJECTION}.{suffix}",
            lambda content, raw=raw: content.__setitem__(slice(None), raw),
        )


SECOND = "model.language_model.layers.1"
ATTENTION = "model.language_model.layers.3.self_attn"
HEADS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PARTS = [f"{LAYER}.mlp.{name}" for name in MLP] + [f"{ATTENTION}.{name}" for name in HEADS]

TAMPERINGS: dict[str, Change] = {
    **{
        f"global scale of {module} doubled": doubled(f"{module}.weight_scale_2") for module in PARTS
    },
    **{
        f"global scale of {module} times four": _scaled(f"{module}.weight_scale_2", 4)
        for module in PARTS
    },
    **{
        f"a block scale of {module} doubled": _block_scale(f"{module}.weight_scale", 5)
        for module in PARTS
    },
    **{f"codes of {module}": _bytes_of(f"{module}.weight", 3) for module in PARTS},
    **{
        f"norm {number} of the body": _bytes_of(
            f"model.language_model.layers.{number}.input_layernorm.weight", number
        )
        for number in range(4)
    },
    "embeddings": _bytes_of("model.language_model.embed_tokens.weight", 1),
    "convolution": _bytes_of(f"{LAYER}.linear_attn.conv1d.weight", 2),
    "norms swapped": _swapped(
        f"{LAYER}.input_layernorm.weight", f"{SECOND}.input_layernorm.weight"
    ),
    "codes swapped between layers": _swapped(
        f"{LAYER}.mlp.up_proj.weight", f"{SECOND}.mlp.up_proj.weight"
    ),
    "a module of another model": _other_model,
    "head norm": _bytes_of("mtp.norm.weight", 4),
    "head matrix": _bytes_of("mtp.layers.0.mlp.up_proj.weight", 5),
    "head joined otherwise": _bytes_of("mtp.fc.weight", 6),
    "rope of another base": in_json(
        "config.json", lambda config: config["text_config"].update(rms_norm_eps=1e-3)
    ),
    "another end of turn": in_json("generation_config.json", lambda config: config.update(top_k=1)),
    "a scheme of the cache": in_json(
        "config.json",
        lambda config: config["quantization_config"].update(kv_cache_scheme={"num_bits": 8}),
    ),
    "another sidecar": in_json(
        "hf_quant_config.json",
        lambda content: content["quantization"].update(kv_cache_quant_algo="FP8"),
    ),
    "activation scales of nothing": _scaled(f"{ATTENTION}.o_proj.input_scale", 2.0**-24),
    "another chat template": replaced("chat_template.jinja", "assistant", "user"),
}


@pytest.mark.parametrize("title", TAMPERINGS)
def test_what_digests_written_anew_hide_source_and_donor_tell(
    title: str, sealed_release: Path, tmp_path: Path, pico: Pico
) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    TAMPERINGS[title](folder)
    rehash(folder)
    found = of_pico(folder, pico)
    parts = refuted(found)
    assert parts.keys() - {"seal", "attestations", "lint"}, (title, parts)


def test_there_are_enough_tamperings() -> None:
    assert len(TAMPERINGS) >= 40


def test_a_recipe_that_nobody_knows_bounds_nothing(
    sealed_release: Path, tmp_path: Path, pico: Pico
) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    for stage in ("quantize_nvfp4", "graft_mtp"):
        edit_manifest(
            manifest_of(folder, stage),
            lambda manifest: manifest["facts"]["recipe"].update(name="nvfp9"),
        )
    rehash(folder)
    found = audit(str(folder), source=str(pico.agent), deep=True)
    assert "quantize_nvfp4" in refuted(found)["quantized weights"]
    assert outcomes(found)["full derivation"] == "unproved"


def test_weights_that_an_edit_has_moved_are_never_proved(
    release: Path, tmp_path: Path, pico: Pico
) -> None:
    """One direction is taken out of a matrix, which the error that GPTQ leaves would hide."""
    folder = _unsealed(release, tmp_path)
    module = f"{LAYER}.mlp.down_proj"
    source = RangedCheckpoint.open(str(pico.agent))
    key = next(name for name in source.extents if name.endswith("layers.0.mlp.down_proj.weight"))
    weight = source.extents[key].rows(range(source.extents[key].tensor.shape[0]))
    checkpoint = Checkpoint.open(folder)
    scale = torch.frombuffer(
        bytearray(_raw(checkpoint, f"{module}.weight_scale_2")), dtype=torch.float32
    )[0]
    torch.manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(len(weight)), dim=0)
    edited = weight.float() - torch.outer(direction, direction @ weight.float())
    scales = pack(weight, scale)[1]
    codes, _ = pack(edited.to(torch.bfloat16), scale, scales)
    raw = codes.numpy().tobytes()
    edit_tensor(folder, f"{module}.weight", lambda content: content.__setitem__(slice(None), raw))
    found = outcomes(audit(str(folder), source=str(pico.agent)))
    assert found["quantized weights"] in ("unproved", "refuted")


def _unsealed(release: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint that can be altered, without tables."""
    folder = shutil.copytree(release, tmp_path / "release")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (folder / "tensors.json").unlink()
    return folder


CONFIGURATIONS: dict[str, Change] = {
    "eps": in_json("config.json", lambda config: config["text_config"].update(rms_norm_eps=0.5)),
    "temperature": in_json("generation_config.json", lambda config: config.update(top_k=1)),
    "template": replaced("chat_template.jinja", "assistant", "user"),
    "vocabulary": in_json(
        "tokenizer.json", lambda content: content["model"]["vocab"].update(zzz=5)
    ),
}


def test_another_configuration_contradicts_a_release_of_any_tool(
    release: Path, tmp_path: Path, pico: Pico
) -> None:
    for title, change in CONFIGURATIONS.items():
        folder = _unsealed(release, tmp_path / title)
        change(folder)
        found = audit(str(folder), source=str(pico.agent))
        (verdict,) = (v for v in found.verdicts if v.part == "configuration")
        assert verdict.faults, title


def _added(
    folder: Path, tensors: dict[str, torch.Tensor], file: str = "model-zz.safetensors"
) -> None:
    """Tensors more, in a shard of their own."""
    save_file(tensors, folder / file, {"format": "pt"})
    edit_json(
        folder / "model.safetensors.index.json",
        lambda index: index["weight_map"].update(dict.fromkeys(tensors, file)),
    )


def test_tensors_that_nobody_asked_for_have_no_origin(
    release: Path, tmp_path: Path, pico: Pico
) -> None:
    folder = _unsealed(release, tmp_path)
    names = "mtp.fc.bias", f"{LAYER}.mlp.up_proj.k_scale"
    _added(folder, {name: torch.zeros(4, dtype=torch.bfloat16) for name in names})
    found = refuted(audit(str(folder), source=str(pico.agent), donor=str(pico.base)))
    assert found["MTP head"] == ["mtp.fc.bias"]
    assert f"{LAYER}.mlp.up_proj.k_scale" in found["names"]


def test_an_expert_that_stands_there_twice_is_found(tmp_path: Path, pico: Pico) -> None:
    mixture = pico.folder / "pico-mixture"
    folder = shutil.copytree(mixture, tmp_path / "release")
    source = RangedCheckpoint.open(str(mixture))
    name = next(key for key in source.extents if key.endswith("layers.0.mlp.experts.down_proj"))
    stack = source.extents[name]
    count = stack.tensor.shape[0]
    whole = stack.rows(range(count))
    members = {f"{name.rpartition('.')[0]}.{i}.down_proj.weight": whole[i] for i in range(count)}
    _added(folder, {key: each.contiguous().clone() for key, each in members.items()})
    found = refuted(audit(str(folder), source=str(mixture)))
    assert set(members) <= set(found["names"])


def test_a_scale_of_another_form_refutes_and_ends_nothing(
    release: Path, tmp_path: Path, pico: Pico
) -> None:
    folder = _unsealed(release, tmp_path)
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        for key in [name for name in tensors if name.endswith("mlp.up_proj.input_scale")]:
            tensors[key] = torch.ones(2)
        save_file(tensors, path, {"format": "pt"})
    found = refuted(audit(str(folder), source=str(pico.agent)))
    assert "activation scales" in found or "quantized weights" in found


def test_a_named_root_and_a_level_are_asked_for(
    sealed_release: Path, pico: Pico, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*options: str) -> int:
        given = [str(sealed_release), "--source", str(pico.agent), "--donor", str(pico.base)]
        monkeypatch.setattr(sys, "argv", ["scion", "audit", *given, *options])
        return main()

    root = str(audit(str(sealed_release)).root)
    assert run("--root", root) == 0
    assert run("--root", f"sha256:{'0' * 64}") == 1
    # Activation scales come of samples.
    assert run("--require", "bounded") == 1


def test_another_source_or_donor_contradicts_a_release(sealed_release: Path, pico: Pico) -> None:
    other = audit(str(sealed_release), source=str(pico.base), donor=str(pico.base))
    assert {"quantized weights", "configuration"} & refuted(other).keys() == {"quantized weights"}
    one_step = pico.folder / "pico-one-step"
    assert refuted(audit(str(sealed_release), donor=str(one_step)))["MTP head"]


def test_a_dropped_layer_is_missing(release: Path, tmp_path: Path, pico: Pico) -> None:
    folder = shutil.copytree(release, tmp_path / "release")

    def drop(config: Any) -> None:
        config["text_config"]["num_hidden_layers"] -= 1
        config["text_config"]["layer_types"].pop()

    edit_json(folder / "config.json", drop)
    _without(folder, "model.language_model.layers.3.")
    found = refuted(audit(str(folder), source=str(pico.agent)))
    assert any(name.startswith("model.language_model.layers.3.") for name in found["names"])


def _without(folder: Path, prefix: str) -> None:
    """Rewrite the shards of a folder without the tensors of a prefix."""
    weight_map: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {n: t for n, t in load_file(path).items() if not n.startswith(prefix)}
        path.unlink()
        save_file(tensors, path, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, path.name)
    edit_json(
        folder / "model.safetensors.index.json",
        lambda index: index.update(weight_map=weight_map),
    )


def test_the_command_says_it_in_three_forms(
    sealed_release: Path,
    tmp_path: Path,
    pico: Pico,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    edit_tensor(folder, "mtp.norm.weight", lambda raw: raw.__setitem__(0, raw[0] ^ 1))
    rehash(folder)
    given = [str(folder), "--source", str(pico.agent), "--donor", str(pico.base)]

    def run(*options: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["scion", "audit", *given, *options])
        code = main()
        return code, capsys.readouterr().out

    code, text = run()
    assert code == 1
    assert "MTP head: mtp.norm.weight: is not the donor's" in text
    assert text.splitlines()[-1].startswith("REFUTED: ")
    code, report = run("--format", "json")
    assert code == 1
    assert json.loads(report)["refuted"] is True
    _, log = run("--format", "sarif")
    (sarif,) = json.loads(log)["runs"]
    named_there = [result["locations"][0]["logicalLocations"] for result in sarif["results"]]
    assert [{"fullyQualifiedName": "mtp.norm.weight"}] in named_there
    target = tmp_path / "audit.json"
    code, end = run("--format", "json", "--output", str(target))
    assert json.loads(target.read_text())["refuted"] is True
    assert end.startswith("REFUTED: ")


def test_what_can_not_be_read_is_no_verdict(
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for given in ([str(tmp_path / "none")], [str(release), "--source", str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", ["scion", "audit", *given])
        assert main() == 2
        assert "error: " in capsys.readouterr().err


def test_a_damaged_release_is_refuted_though_it_can_not_be_opened(
    sealed_release: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sealed_release, tmp_path / "release")
    removed(HEAD)(folder)
    (folder / SHARD).write_bytes(b"\xff" * 64)
    found = refuted(audit(str(folder)))
    assert {HEAD, SHARD} <= set(found["seal"])


def test_a_scale_that_a_gpu_divided_is_that_of_the_largest_weight() -> None:
    unit = torch.tensor(1.0) / 2688
    numbers = torch.arange(0x3F80, 0x4000, dtype=torch.int32)
    largest = (numbers << 16).view(torch.float32)
    beside = largest[largest / 2688 != largest * unit]
    assert len(beside)
    for each in beside:
        by_gpu, by_none = each * unit, torch.nextafter(each, torch.tensor(9.0)) * 1.01 / 2688
        for scale, sound in ((each / 2688, True), (by_gpu, True), (by_none, False)):
            found = Derived("m", "NVFP4", 16, largest=each, scale=scale)
            assert is_largest(found, [found]) is sound


def test_maxima_of_llm_compressor_are_derived_in_releases_of_other_tools(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(128, 256).to(torch.bfloat16)
    # As compressed_tensors.quantization.utils.helpers computes them, in the weight's dtype.
    reciprocal = (2688.0 / weight.abs().amax()).float()
    largest = weight.unflatten(-1, (-1, 16)).abs().amax(-1)
    scales = ((largest / 6).float() * reciprocal).to(torch.float8_e4m3fn)
    codes, _ = pack(weight, 1 / reciprocal, scales)
    name = "model.layers.0.mlp.up_proj"
    stored = {
        f"{name}.weight_packed": codes,
        f"{name}.weight_scale": scales,
        f"{name}.weight_global_scale": reciprocal.reshape(1),
        f"{name}.input_global_scale": torch.tensor([100.0]),
    }
    for folder, tensors in (("source", {f"{name}.weight": weight}), ("release", stored)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
        save_file(tensors, tmp_path / folder / "model.safetensors")
    source = RangedCheckpoint.open(str(tmp_path / "source")).extents
    parts = RangedCheckpoint.open(str(tmp_path / "release")).extents
    spelled = SPELLINGS["compressed-tensors"].tensors["NVFP4"]
    module = StoredModule(
        name,
        "NVFP4",
        {suffix: parts[f"{name}.{tensor.name}"] for suffix, tensor in spelled.items()},
        spelled,
    )
    for foreign in (True, False):
        found = derive({name: module}, source, foreign=foreign)[name]
        assert isinstance(found, Derived)
        assert is_largest(found, [found], foreign=foreign) is foreign
        assert found.exact is foreign
