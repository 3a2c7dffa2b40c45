"""`scion respell`: any NVFP4 release on disk in the other spelling, or none."""

import filecmp
import json
import signal
import sys
from pathlib import Path

import pytest

from checkpoints import edit_json, snapshot
from lint_checkpoints import edit_tensors, llama, read_tensors, scalar, sound, write_shard
from scion.checkpoint.shards import INDEX
from scion.cli.main import main
from scion.lint import gate


@pytest.fixture
def scion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `scion respell`; its exit code, output and errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scion", "respell", *map(str, arguments)])
        code = main()
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A plain decoder in ModelOpt's spelling."""
    return sound(tmp_path / "release", spelling="modelopt", config=llama())


def test_a_release_goes_into_the_other_spelling_and_back(
    scion, release: Path, tmp_path: Path
) -> None:
    before = snapshot(release)
    (release / "README.md").write_text("A card.")
    code, out, _ = scion(release)
    assert code == 0
    other = tmp_path / "release-compressed-tensors"
    last = out.splitlines()[-1]
    assert last.startswith(f"{other}: compressed-tensors, 14 quantized modules, 2 of 2 shards")
    assert f"left out, for they tell of {release}: README.md" in out
    declared = json.loads((other / "config.json").read_bytes())["quantization_config"]
    assert declared["quant_method"] == "compressed-tensors"
    assert scion(other, "--output", tmp_path / "back")[0] == 0
    (release / "README.md").unlink()
    assert snapshot(release) == before
    back = json.loads((tmp_path / "back/config.json").read_bytes())
    assert back == json.loads((release / "config.json").read_bytes())
    for shard in release.glob("*.safetensors"):
        assert (tmp_path / "back" / shard.name).stat().st_size == shard.stat().st_size


@pytest.mark.parametrize("spelling", ["modelopt", "compressed-tensors", "mixed"])
def test_every_spelling_of_lint_s_sound_checkpoints_has_another(
    scion, tmp_path: Path, spelling
) -> None:
    folder = sound(tmp_path / "release", spelling=spelling)
    code, _, err = scion(folder, "--output", tmp_path / "other")
    assert code == 0, err
    assert scion(tmp_path / "other", "--output", tmp_path / "back")[0] == 0


def test_what_is_there_already_is_left_alone(scion, release: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    code, _, err = scion(release, "--output", tmp_path / "there")
    assert code == 1
    assert "there is something where the release would go" in err
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize(
    ("to", "message"),
    [("modelopt", "in the spelling modelopt already"), ("gguf", "no spelling has this name")],
)
def test_a_spelling_that_it_has_or_nobody_knows_is_refused(
    scion, release: Path, tmp_path: Path, to: str, message: str
) -> None:
    code, _, err = scion(release, "--to", to, "--output", tmp_path / "other")
    assert code == 1
    assert message in err
    assert not (tmp_path / "other").exists()


def beside(tmp_path: Path) -> list[str]:
    """What lies beside the release."""
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "release")


def test_a_release_without_quantization_is_refused(scion, tmp_path: Path) -> None:
    code, _, err = scion(sound(tmp_path / "release", config=llama()))
    assert code == 1
    assert "no quantization_config" in err
    assert beside(tmp_path) == []


def test_a_tensor_of_no_known_form_is_named(scion, release: Path, tmp_path: Path) -> None:
    module = "model.layers.0.mlp.up_proj"
    edit_tensors(release, lambda tensors: tensors.update({f"{module}.pre_quant_scale": scalar(1)}))
    code, _, err = scion(release)
    assert code == 1
    assert f"{module}.pre_quant_scale" in err
    assert beside(tmp_path) == []


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), 1e-40])
def test_a_scale_without_a_reciprocal_is_named(
    scion, release: Path, tmp_path: Path, value: float
) -> None:
    name = "model.layers.0.mlp.up_proj.weight_scale_2"
    edit_tensors(release, lambda tensors: tensors.update({name: scalar(value)}))
    code, _, err = scion(release)
    assert code == 1
    assert name in err
    assert beside(tmp_path) == []


def test_what_engines_would_not_load_gets_no_name(scion, tmp_path: Path) -> None:
    release = sound(tmp_path / "release", spelling="modelopt")
    # Engines would build what it does not name quantized.
    edit_json(
        release / "config.json", lambda config: config["quantization_config"].update(ignore=[])
    )
    code, _, err = scion(release)
    assert code == 1
    assert "lint finds" in err
    assert beside(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(
    scion, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def stopped(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(gate, "lint_folder", stopped)
    code, _, _ = scion(release)
    assert code == 130
    assert beside(tmp_path) == []


def test_files_that_people_edit_are_copies(scion, release: Path, tmp_path: Path) -> None:
    scion(release, "--output", tmp_path / "other")
    for name in ("tokenizer.json", "generation_config.json"):
        assert not (tmp_path / "other" / name).samefile(release / name)


def test_shards_without_quantized_modules_are_not_written(scion, tmp_path: Path) -> None:
    folder = sound(tmp_path / "release", spelling="modelopt", config=llama(), shards=1)
    tensors = read_tensors(folder)
    plain = {name: tensor for name, tensor in tensors.items() if tensor.dtype == "BF16"}
    (folder / "model.safetensors").unlink()
    packed = {name: tensor for name, tensor in tensors.items() if name not in plain}
    shards = {"model-plain.safetensors": plain, "model-packed.safetensors": packed}
    for shard, held in shards.items():
        write_shard(folder / shard, held)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    code, out, _ = scion(folder, "--output", tmp_path / "other")
    assert code == 0
    assert "1 of 2 shards written" in out
    plain_shards = (each / "model-plain.safetensors" for each in (folder, tmp_path / "other"))
    assert filecmp.cmp(*plain_shards, shallow=False)
