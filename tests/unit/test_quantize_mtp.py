"""quantize_mtp: a trained head in FP8 or NVFP4, its declaration, its proof, and altered ones."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import measured
from checkpoints import edit_tensor
from conversion import ENVIRONMENT, Conversion, Pico, copied
from quantized_heads import quantized, trained, verified_of
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.release_layout import RELEASE, TENSORS, table_file
from scion.artifacts.store.store import Store
from scion.checkpoint.shards import CONFIG, INDEX, Checkpoint
from scion.common.errors import ScionError
from scion.config import check_sources, load_config, read_values
from scion.engines.vllm.engine import VLLM
from scion.evaluation.offline.linear import Fp8Linear, NvFp4Linear
from scion.evaluation.offline.mtp import load_head
from scion.evaluation.offline.target import text_config
from scion.evaluation.offline.weights import Weights
from scion.formats.modelopt import HF_QUANT_CONFIG
from scion.formats.stored_modules import HeadScheme
from scion.healing.rounding import rounded
from scion.lint.config import Lint
from scion.lint.gate import lint_folder
from scion.quantization.quantized_head import MAXIMA
from scion.stages.graft_mtp import graft_mtp
from scion.stages.respell import respell
from sealed import by_stage, sealed
from shared import made_once
from tampering import HEAD, SHARD, Change, both, in_json, in_manifest, told, told_of_altered

Made = Mapping[str, Artifact]
LAYER = "mtp.layers.0"
GATE, UP, DOWN = (f"{LAYER}.mlp.{name}_proj" for name in ("gate", "up", "down"))
BODY = "model.language_model.layers.0.input_layernorm.weight"
FC, NORM = "mtp.fc.weight", f"{LAYER}.input_layernorm.weight"
MODULES = {
    *(f"{LAYER}.self_attn.{name}_proj" for name in "qkvo"),
    *(GATE, UP, DOWN),
}
SCHEMES: tuple[HeadScheme, ...] = ("fp8", "nvfp4")
ALGORITHM = {"fp8": "FP8", "nvfp4": "NVFP4"}


@pytest.fixture(scope="module")
def healing(conversion: Conversion, pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A head that was trained, and is bf16 yet."""
    folder = made_once(
        tmp_path_factory, "trained", lambda folder: trained(conversion.graft_mtp, pico, folder)
    )
    return opened(folder)


def opened(folder: Path) -> Made:
    store = Store.open([str(folder / ".store")])
    stages = ("sample_replies", "heal_mtp", "quantize_mtp", "verify_release")
    paths = {stage: folder / f"{stage}.json" for stage in stages}
    return {stage: store.open_pointer(path) for stage, path in paths.items() if path.exists()}


@pytest.fixture(scope="module")
def heads(
    conversion: Conversion, healing: Made, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[HeadScheme, Made]:
    """By scheme, all stages of a release whose head is stored so."""

    def made(scheme: HeadScheme) -> Made:
        def make(folder: Path) -> None:
            release = quantized(healing, folder, scheme)
            verified_of(conversion, release, healing["heal_mtp"], folder)

        folder = made_once(tmp_path_factory, f"head-{scheme}", make)
        return {**by_stage(conversion), **healing, **opened(folder)}

    return {scheme: made(scheme) for scheme in SCHEMES}


def stored(release: Artifact, name: str) -> Tensor:
    checkpoint = Checkpoint.open(release.folder)
    return Weights(checkpoint, device=torch.device("cpu"), activations="nvfp4").tensor(name)


def decoded(release: Artifact, module: str) -> Tensor:
    """The weight of a module of the head, as it is drafted with."""
    checkpoint = Checkpoint.open(release.folder)
    weights = Weights(checkpoint, device=torch.device("cpu"), activations="nvfp4")
    head = load_head(weights, text_config(weights))
    part = head.get_submodule(module.removeprefix("mtp."))
    assert isinstance(part, Fp8Linear | NvFp4Linear)
    return part.decode()


def flip(raw: bytearray) -> None:
    raw[0] ^= 1


# What is made


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_matrices_of_the_head_alone_are_others(
    heads: Mapping[HeadScheme, Made], scheme: HeadScheme
) -> None:
    before, after = heads[scheme]["heal_mtp"], heads[scheme]["quantize_mtp"]
    assert after.check() == []
    assert after.files.keys() == before.files.keys()
    assert {name for name in after.files if after.files[name] != before.files[name]} == {
        *(HEAD, TENSORS, CONFIG, INDEX, HF_QUANT_CONFIG)
    }
    assert (after.folder / SHARD).stat().st_ino == (before.folder / SHARD).stat().st_ino
    rows, old = after.tensors(), before.tensors()
    for name, row in rows.items():
        module = name.rpartition(".")[0]
        if module in MODULES:
            # What was packed is the trained tensor.
            assert row["origin"] == {
                "from": "quantized",
                "sha256": old[f"{module}.weight"]["sha256"],
            }
        else:
            assert {**row, "range": 0} == {**old[name], "range": 0}
    head = after.facts["quantized_head"]
    assert (head["algorithm"], set(head["modules"])) == (ALGORITHM[scheme], MODULES)
    assert head["bytes"] < 0.75 * after.facts["mtp_bytes"]
    assert {**after.facts, "quantized_head": 0} == {**before.facts, "quantized_head": 0}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_both_files_declare_each_module(
    heads: Mapping[HeadScheme, Made], scheme: HeadScheme
) -> None:
    folder = heads[scheme]["quantize_mtp"].folder
    flat = json.loads((folder / CONFIG).read_bytes())["quantization_config"]
    nested = json.loads((folder / HF_QUANT_CONFIG).read_bytes())["quantization"]
    # SGLang builds a head in bf16 that mixed precision does not name.
    assert flat["quant_algo"] == nested["quant_algo"] == "MIXED_PRECISION"
    assert flat["quantized_layers"] == nested["quantized_layers"]
    algorithms = {name: layer["quant_algo"] for name, layer in flat["quantized_layers"].items()}
    assert {name for name in algorithms if name.startswith("mtp.")} == MODULES
    assert {algorithms[name] for name in MODULES} == {ALGORITHM[scheme]}
    assert algorithms["model.language_model.layers.3.self_attn.q_proj"] == "NVFP4"
    assert flat["ignore"] == nested["exclude_modules"]
    assert [name for name in flat["ignore"] if name.startswith("mtp")] == ["mtp.fc"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_numbers_are_those_that_training_sees(
    heads: Mapping[HeadScheme, Made], scheme: HeadScheme
) -> None:
    healed, release = heads[scheme]["heal_mtp"], heads[scheme]["quantize_mtp"]
    wanted = rounded([stored(healed, f"{name}.weight") for name in (GATE, UP)], scheme)
    for name, value in zip((GATE, UP), wanted, strict=True):
        assert torch.equal(decoded(release, name), value)


def test_what_engines_fuse_shares_its_scales(heads: Mapping[HeadScheme, Made]) -> None:
    shared_by: dict[HeadScheme, tuple[tuple[str, ...], int]] = {
        "fp8": (("weight_scale", "input_scale"), 448),
        "nvfp4": (("weight_scale_2", "input_scale"), 6 * 448),
    }
    for scheme, (shared, largest) in shared_by.items():
        release = heads[scheme]["quantize_mtp"]
        for suffix in shared:
            scales = [stored(release, f"{name}.{suffix}").item() for name in (GATE, UP)]
            assert scales[0] == scales[1]
        maxima = release.facts["healing"][MAXIMA]
        for name in (UP, DOWN):
            found = stored(release, f"{name}.input_scale")
            assert torch.equal(found, torch.tensor(maxima[name]) / largest)


def test_a_group_takes_the_largest_input_of_its_modules(healing: Made, tmp_path: Path) -> None:
    healed = altered_maxima(healing, tmp_path, lambda maxima: maxima.update({GATE: 100.0}))
    release = quantized({"heal_mtp": healed}, tmp_path, "fp8")
    assert torch.equal(stored(release, f"{UP}.input_scale"), torch.tensor(100.0) / 448)


@pytest.mark.parametrize("value", [None, 0.0, float("inf")])
def test_an_input_without_a_maximum_is_refused(
    healing: Made, tmp_path: Path, value: float | None
) -> None:
    healed = altered_maxima(healing, tmp_path, lambda maxima: maxima.update({DOWN: value}))
    with pytest.raises(ScionError, match="has no largest magnitude") as caught:
        quantized({"heal_mtp": healed}, tmp_path, "fp8")
    assert DOWN in caught.value.where


def told_otherwise(
    healed: Artifact, inputs: dict[str, Artifact | Path], facts: dict[str, Any], folder: Path
) -> Artifact:
    """The same artifact of heal_mtp with other facts."""

    def build(draft: Draft) -> None:
        draft.link_all(healed)
        draft.origins |= {name: row["origin"] for name, row in healed.tensors().items()}
        draft.facts |= facts

    return remake(
        Output.at(folder / "heal_mtp"),
        stage="heal_mtp",
        inputs=inputs,
        settings={"facts": sorted(facts)},
        environment=ENVIRONMENT,
        build=build,
    )


def altered_maxima(
    healing: Made, folder: Path, change: Callable[[dict[str, Any]], object]
) -> Artifact:
    """The artifact of heal_mtp with other maxima."""
    facts = json.loads(json.dumps(healing["heal_mtp"].facts))
    change(facts["healing"][MAXIMA])
    return told_otherwise(healing["heal_mtp"], {}, facts, folder)


def test_a_head_that_is_quantized_already_is_refused(
    heads: Mapping[HeadScheme, Made], tmp_path: Path
) -> None:
    with pytest.raises(ScionError, match="does not exclude its MTP head"):
        quantized({"heal_mtp": heads["fp8"]["quantize_mtp"]}, tmp_path, "fp8")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_other_spelling_has_the_same_numbers(
    conversion: Conversion, healing: Made, tmp_path: Path, scheme: HeadScheme
) -> None:
    respelled = respell(
        quantized=conversion.quantize_nvfp4,
        spelling="compressed-tensors",
        output=Output.at(tmp_path / "respell"),
        environment=ENVIRONMENT,
    )
    grafted = graft_mtp(
        quantized=respelled,
        fixed=conversion.fix_keys,
        donor=conversion.fetch_donor,
        output=Output.at(tmp_path / "graft_mtp"),
        environment=ENVIRONMENT,
    )
    # Of a head that training has left as it was.
    facts = {**grafted.facts, "healing": {**healing["heal_mtp"].facts["healing"], "healed": False}}
    healed = told_otherwise(grafted, {"release": grafted}, facts, tmp_path)
    release = quantized({"heal_mtp": healed}, tmp_path, scheme)
    verified = verified_of(conversion, release, healed, tmp_path)
    assert verified.facts["trained_tensors"] == 0
    assert verified.facts["quantized_head_modules"] == 7
    ignored = json.loads((release.folder / CONFIG).read_bytes())["quantization_config"]["ignore"]
    assert [name for name in ignored if "mtp" in name] == ["mtp.fc"]
    wanted = rounded([stored(healed, f"{name}.weight") for name in (GATE, UP)], scheme)
    for name, value in zip((GATE, UP), wanted, strict=True):
        assert torch.equal(decoded(release, name), value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_known_engine_builds_the_head_as_it_is_stored(
    heads: Mapping[HeadScheme, Made], scheme: HeadScheme
) -> None:
    engines = tuple(f"vllm=={version}" for version in VLLM.releases)
    before, after = (
        {
            result.rule.code
            for result in lint_folder(made.folder, Lint(engines=(*engines, "sglang")))
        }
        for made in (heads[scheme]["heal_mtp"], heads[scheme]["quantize_mtp"])
    )
    assert after == before


# What is verified


@pytest.mark.parametrize("scheme", SCHEMES)
def test_verification_holds_the_head_against_the_trained_one(
    heads: Mapping[HeadScheme, Made], conversion: Conversion, scheme: HeadScheme
) -> None:
    facts, before = heads[scheme]["verify_release"].facts, conversion.verify_release.facts
    assert (facts["quantized_head_modules"], before["quantized_head_modules"]) == (7, 0)
    assert facts["trained_tensors"] == 15
    assert 0 < facts["relative_head_error"] < 0.12
    assert before["relative_head_error"] is None
    assert facts["relative_weight_error"] == before["relative_weight_error"]
    # Each of the engines that releases are judged for builds every module as it is stored.
    assert {row["code"] for row in facts["lint"]["findings"]} == {"C806", "T609"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{DOWN}.weight", "further from its source"),
        (f"{DOWN}.input_scale", "the scale of a module's inputs"),
        (NORM, "a trained tensor is another"),
        (FC, "a trained tensor is another"),
    ],
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_altered_head_is_found(
    heads: Mapping[HeadScheme, Made],
    conversion: Conversion,
    tmp_path: Path,
    scheme: HeadScheme,
    name: str,
    words: str,
) -> None:
    altered = copied(heads[scheme]["quantize_mtp"], tmp_path / "copy")
    edit_tensor(altered.folder, name, high_bit if name.startswith(DOWN) else flip)
    with pytest.raises(ScionError, match=words) as caught:
        verified_of(conversion, altered, heads[scheme]["heal_mtp"], tmp_path)
    assert name.rpartition(".")[0] in caught.value.where


def high_bit(raw: bytearray) -> None:
    raw[-1] ^= 0x04


def test_a_quantized_head_is_verified_beside_the_one_before(
    heads: Mapping[HeadScheme, Made], conversion: Conversion, tmp_path: Path
) -> None:
    made = heads["fp8"]
    with pytest.raises(ScionError, match="the head before it was quantized"):
        verified_of(conversion, made["quantize_mtp"], None, tmp_path)
    with pytest.raises(ScionError, match="the head before it was quantized"):
        verified_of(conversion, made["quantize_mtp"], made["graft_mtp"], tmp_path)


# What `scion check` says of a release


@pytest.fixture(scope="module")
def release(heads: Mapping[HeadScheme, Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release with its head in NVFP4, sealed."""

    def make(folder: Path) -> None:
        sealed(heads["nvfp4"], folder, measured.results())

    return made_once(tmp_path_factory, "head-sealed", make) / RELEASE


def test_the_release_is_sound_and_its_card_tells(release: Path) -> None:
    assert told(release) == []
    files = json.loads((release / "manifest.json").read_text())["files"]
    assert {table_file("graft_mtp"), table_file("heal_mtp")} <= files.keys()
    card = " ".join((release / "README.md").read_text().split())
    assert "with the NVFP4 multi-token-prediction (MTP) head of" in card
    assert "The 7 matrices of its decoder layer are then stored in NVFP4" in card
    assert "15 tensors of the MTP head trained, 7 of its matrices then quantized" in card
    assert "`fc` of the MTP head" in card
    assert "| quantize_mtp |" in card


def in_table(change: Any) -> Change:
    return in_json(TENSORS, change)


QUANTIZED = f"{DOWN}.weight_scale"
ALTERED: dict[str, tuple[Change, str]] = {
    "a matrix that is said to be the trained one": (
        in_table(lambda rows: rows[QUANTIZED]["origin"].update({"from": "trained"})),
        QUANTIZED,
    ),
    "another norm than training has left": (
        lambda folder: edit_tensor(folder, NORM, flip),
        NORM,
    ),
    "a norm that is said to be quantized": (
        both(
            lambda folder: edit_tensor(folder, NORM, flip),
            in_manifest(
                "quantize_mtp",
                lambda made: made["facts"]["quantized_head"]["modules"].append(
                    NORM.removesuffix(".weight")
                ),
            ),
        ),
        f"{NORM} is no packed matrix",
    ),
    "a tensor of the body that is another": (
        lambda folder: edit_tensor(folder, BODY, flip),
        f"{BODY} is no packed matrix",
    ),
    "a head of fewer modules by its facts": (
        in_manifest("quantize_mtp", lambda made: made["facts"]["quantized_head"]["modules"].pop()),
        "fact quantized_head",
    ),
    "a verification that saw less": (
        in_manifest("verify_release", lambda made: made["facts"].update(quantized_head_modules=0)),
        "fact quantized_head_modules",
    ),
    "no table of what was quantized": (
        in_manifest("heal_mtp", lambda made: made["files"].pop(TENSORS)),
        table_file("heal_mtp"),
    ),
    "verified without the head before": (
        in_manifest("verify_release", lambda made: made["made_from"].pop("healed")),
        "healed",
    ),
    "other inputs by its facts": (
        in_manifest("quantize_mtp", lambda made: made["facts"]["healing"].update(healed=False)),
        "fact healing",
    ),
    "another tokenizer's config than training was given": (
        in_json("tokenizer_config.json", lambda config: config.update(more=1)),
        "tokenizer_config.json",
    ),
    "measured before it was quantized": (
        in_manifest(
            "run_agent_tasks", lambda made: made["made_from"]["release"].update(stage="heal_mtp")
        ),
        "run_agent_tasks",
    ),
}


@pytest.mark.parametrize("name", ALTERED)
def test_altered_releases_are_found_although_all_digests_are_written_anew(
    release: Path, tmp_path: Path, name: str
) -> None:
    change, words = ALTERED[name]
    lines = told_of_altered(release, tmp_path / "release", change)
    assert any(words in line for line in lines), lines


# What the configuration says


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_head_is_quantized_only_after_training(scheme: str) -> None:
    values: dict[str, Any] = {"mtp": {"quantize": scheme}}
    with pytest.raises(ScionError, match=r"mtp\.quantize: .*, and healing\.enabled is false"):
        load_config(values, where="here")
    config = load_config({**values, "healing": {"enabled": True}}, where="here")
    assert config.mtp.quantize == scheme


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(ScionError, match=r"mtp\.quantize: .*'none', 'fp8' or 'nvfp4'"):
        load_config({"mtp": {"quantize": "int4"}}, where="here")


def test_the_head_of_a_mixture_is_refused_before_any_work(
    pico: Pico, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = pico.folder.parents[1]
    values = read_values(project / "config/releases/pico-mixture-nvfp4-text-mtp.yaml")
    values |= {"healing": {"enabled": True}, "mtp": {**values["mtp"], "quantize": "fp8"}}
    config = load_config(values, where="here")
    monkeypatch.chdir(project)
    with pytest.raises(ScionError, match="a mixture of experts, and such a head"):
        check_sources(config, where="here", hub=False)
