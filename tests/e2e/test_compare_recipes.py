"""compare_recipes: the rule, with two variants and little to read; and a run that was stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints import half_made
from conversion import ENVIRONMENT, Conversion, Pico
from project_copy import ProjectCopy
from scion.artifacts.artifact import Artifact
from scion.artifacts.environments import interpreter
from scion.artifacts.making import Output
from scion.config import Config
from scion.evaluation.variants import Measuring
from scion.stages import compare_recipes as stage

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
RELEASE = "pico-agent-nvfp4-text-mtp"
LIMITS: dict[str, Any] = {
    "variants": [{"recipe": "nvfp4_default"}, {"recipe": "gptq", "keep_bf16": "linear_attention"}],
    "samples": 2,
    "max_tokens": 80,
    "acceptance_prompts": 1,
    "reply_tokens": 4,
    "agent_cases": None,
}
QUANTIZATION = {"calibration": {"sets": [{"samples": 2}]}, "device": "cpu"}


def test_the_rule_makes_a_table_and_a_picture(tmp_path: Path) -> None:
    project = ProjectCopy.make(tmp_path)
    settings = {"comparison": LIMITS, "quantization": QUANTIZATION}
    (tmp_path / "config/tiny.yaml").write_text(json.dumps(settings))
    options = ("--configfile", "config/tiny.yaml")
    assert "compare_recipes" not in project.planned(*options)
    done = project.run("snakemake", "--cores", "all", "recipes", *options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    artifact = Artifact.open(tmp_path / "results" / RELEASE / "compare_recipes")
    assert artifact.check() == []
    assert {"recipes.json", "recipes.md", "recipes.svg"} <= artifact.files.keys()
    result = json.loads((artifact.folder / "recipes.json").read_bytes())
    source, default, gptq = result["variants"]
    assert [source["name"], default["name"]] == ["source", "nvfp4_default"]
    assert source["parts"]["all"]["kl"]["value"] == 0 < default["parts"]["all"]["kl"]["value"]
    assert default["bytes"] < gptq["bytes"] < source["bytes"]
    assert default["seconds"] >= default["own_seconds"] > 0
    assert default["acceptance"]["prompts"] == 1
    # GPTQ keeps a part in bf16 here, so it is not ranked.
    assert result["best"]["name"] == "nvfp4_default"
    log = (tmp_path / "logs" / RELEASE / "compare_recipes.log").read_text()
    assert "the best recipe with all projections in NVFP4 is nvfp4_default" in log.splitlines()[-1]
    assert not (artifact.folder.parent / ".compare_recipes.work").exists()


def test_a_run_that_was_stopped_measures_nothing_twice(
    conversion: Conversion, pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate(
        {
            "comparison": {
                **LIMITS,
                "acceptance_prompts": None,
                "variants": [{"recipe": "nvfp4_default"}, {"recipe": "four_over_six"}],
            },
            "quantization": QUANTIZATION,
        }
    )
    measured: list[str] = []
    original = Measuring.quality

    def quality(self: Measuring, folder: Path, *arguments: Any) -> Any:
        measured.append(folder.name)
        if measured == ["source", "nvfp4_default", "four_over_six"]:
            raise KeyboardInterrupt
        return original(self, folder, *arguments)

    monkeypatch.setattr(Measuring, "quality", quality)

    def run() -> Artifact:
        return stage.compare_recipes(
            text=conversion.extract_text,
            donor=conversion.fetch_donor,
            own_head=None,
            chats=pico.folder / "heldout.jsonl",
            texts=None,
            prompts=pico.folder / "prompts.jsonl",
            tasks=PROJECT / "workflow/scion/evaluation/agent/agent_tasks.yaml",
            output=Output.at(tmp_path / "compare_recipes"),
            settings=stage.RecipeComparisonSettings(
                quantization=config.quantization,
                comparison=config.comparison,
                serving=config.serving,
                launch=config.launches[0],
            ),
            python=PROJECT / interpreter("envs/serve-cpu"),
            log_folder=tmp_path / "logs",
            environment=ENVIRONMENT,
        )

    with pytest.raises(KeyboardInterrupt):
        run()
    artifact = run()
    assert measured[3:] == ["four_over_six"]
    result = json.loads((artifact.folder / "recipes.json").read_bytes())
    names = [variant["name"] for variant in result["variants"]]
    assert names == ["source", "nvfp4_default", "four_over_six"]
    assert half_made(tmp_path) == []
    assert result["datasets"]["texts"] is None
    assert result["variants"][1]["acceptance"] is None
