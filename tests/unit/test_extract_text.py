import json
from pathlib import Path

from checkpoints import tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion
from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.artifacts.release_chain import chain_problems
from scion.checkpoint.shards import Checkpoint
from scion.stages.extract_text import extract_text
from scion.stages.fetch_source import fetch_source

PROCESSORS = {"preprocessor_config.json", "video_preprocessor_config.json"}


def extract(folder: Path) -> tuple[Artifact, Artifact]:
    fixed = fetch_source(
        location=str(folder), output=Output.at(folder.parent / "fixed"), environment=ENVIRONMENT
    )
    output = folder.parent / "text"
    text = extract_text(
        fixed=fixed,
        output=Output.at(output),
        environment=ENVIRONMENT,
    )
    return fixed, text


def test_the_tower_goes_with_all_that_belongs_to_it(conversion: Conversion) -> None:
    fixed, text = conversion.fix_keys, conversion.extract_text
    config = json.loads((fixed.folder / "config.json").read_bytes())
    expected = inventory(config, where="x")
    before = fixed.tensors()
    assert text.tensors().keys() == set(expected.language)
    for name, row in text.tensors().items():
        assert row["sha256"] == before[name]["sha256"]
    tower = [before[name]["range"] for name in expected.vision]
    assert text.facts["vision_tensors_removed"] == len(expected.vision)
    assert text.facts["vision_bytes_removed"] == sum(end - begin for begin, end in tower)
    assert text.facts["files_removed"] == sorted(PROCESSORS)
    assert text.files.keys().isdisjoint(PROCESSORS)
    del config["vision_config"]
    config["text_config"]["mtp_num_hidden_layers"] = 0
    assert json.loads((text.folder / "config.json").read_bytes()) == config


def test_no_config_names_code(tmp_path: Path) -> None:
    code = {"auto_map": {"AutoModel": "modeling_own.Model"}, "custom_pipelines": {"x": {}}}
    config = tiny_config() | code
    config["text_config"] |= code
    folder = write_checkpoint(tmp_path / "model", config)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps({"kept": 1, **code}))
    fixed, text = extract(folder)
    files = {name for name in text.files if name.endswith("config.json")}
    assert "preprocessor_config.json" not in files
    for name in files:
        assert "auto_map" not in (text.folder / name).read_text()
        assert "custom_pipelines" not in (text.folder / name).read_text()
    assert json.loads((text.folder / "tokenizer_config.json").read_bytes()) == {"kept": 1}
    assert text.facts["code_references_removed"]["tokenizer_config.json"] == list(code)
    assert text.check() == []
    # A release's check takes the stage's word for it, of these files alone.
    manifests = {"fix_keys": fixed.manifest, "extract_text": text.manifest}
    changed = [
        told for told in chain_problems(manifests, text.manifest) if "is not that of" in told
    ]
    assert changed == []
    del text.manifest["facts"]["code_references_removed"]["tokenizer_config.json"]
    changed = [
        told for told in chain_problems(manifests, text.manifest) if "is not that of" in told
    ]
    assert len(changed) == 1
    assert "tokenizer_config.json" in changed[0]


def test_shards_without_tower_or_head_are_linked(conversion: Conversion) -> None:
    fixed, text = conversion.fix_keys, conversion.extract_text
    rewritten = 0
    for shard, header in Checkpoint.open(text.folder).headers.items():
        name = next(iter(header.tensors))
        original = fixed.tensors()[name]["file"]
        same = (text.folder / shard).samefile(fixed.folder / original)
        rewritten += not same
        of_tower = any(
            row["file"] == original and tensor not in text.tensors()
            for tensor, row in fixed.tensors().items()
        )
        assert same is not of_tower
    assert rewritten == text.facts["shards_rewritten"] == 1


def test_a_sources_own_head_goes_too(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config())
    _, text = extract(folder)
    assert not any(name.startswith("mtp.") for name in text.tensors())
    assert text.facts["mtp_tensors_removed"] == 15


def test_a_shard_of_nothing_else_disappears_and_the_others_are_renumbered(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tiny_config(), shards=60)
    _, text = extract(folder)
    checkpoint = Checkpoint.open(text.folder)
    count = len(checkpoint.headers)
    assert count < 60
    assert list(checkpoint.headers) == [
        f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)
    ]
