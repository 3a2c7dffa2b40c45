"""`scion diff`: what two checkpoints have otherwise."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from checkpoints import edit_json, edit_tensor
from conversion import Conversion
from scion.audit.difference import difference
from scion.cli.main import main

NORM = "model.language_model.layers.0.input_layernorm.weight"


def test_repaired_keys_are_the_same_weights_under_other_names(conversion: Conversion) -> None:
    folders = str(conversion.fetch_source.folder), str(conversion.fix_keys.folder)
    found = difference(*folders, tables=True)
    renamed = conversion.fix_keys.facts["renamed_tensors"]
    assert found.same_weights
    assert len(found.renamed) == renamed > 0
    assert found.read == ("tensors.json", "tensors.json")
    assert found.renamed == difference(*folders).renamed


def test_quantizing_and_grafting_are_told_apart(conversion: Conversion) -> None:
    found = difference(str(conversion.fix_keys.folder), str(conversion.graft_mtp.folder))
    assert len(found.requantized) == conversion.quantize_nvfp4.facts["quantized_modules"]
    assert set(found.requantized.values()) == {("unquantized", "NVFP4")}
    assert all(name.startswith("mtp.") for name in found.added)
    assert all("visual" in name for name in found.removed)
    assert not found.changed
    assert "quantization_config" in found.config


def test_a_changed_tensor_and_key_are_named(conversion: Conversion, tmp_path: Path) -> None:
    folder = shutil.copytree(conversion.graft_mtp.folder, tmp_path / "b")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    edit_tensor(folder, NORM, lambda raw: raw.__setitem__(0, raw[0] ^ 1))
    edit_json(folder / "config.json", lambda config: config["text_config"].update(vocab_size=7))
    before = str(conversion.graft_mtp.folder)
    # The table in the folder is that of the release before.
    assert not difference(before, str(folder), tables=True).changed
    found = difference(before, str(folder))
    assert dict(found.changed) == {NORM: "other bytes"}
    assert found.config.keys() == {"text_config.vocab_size"}


def test_the_command_tells_it(
    conversion: Conversion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = (str(each.folder) for each in (conversion.fetch_source, conversion.fix_keys))

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["scion", "diff", *arguments])
        code = main()
        return code, capsys.readouterr().out

    code, text = run(a, b)
    assert code == 0
    assert text.splitlines()[-1].startswith("the same weights: ")
    assert "more: --all lists them" in text
    code, text = run(a, str(conversion.graft_mtp.folder), "--json")
    assert code == 1
    assert json.loads(text)["same_weights"] is False
    assert run(a, str(tmp_path))[0] == 2
