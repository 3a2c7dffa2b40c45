"""Does the verdict tell releases that may stand for their source from those that may not?

Releases are judged beside one bf16 source, the embedded agent: its own by the default recipe and
by the maxima of `nvfp4_default`; the first of these with one scale wrong, `weight_scale_2` of
`down_proj` in the middle layer times four; one of the weights of the agent's base, of which the
agent is a small fine-tune; and, with `--other-model`, one of a model that was trained apart. For
the record that was the base from another seed, `train.py base --seed 1 --seconds 350` on one H200.
The workflow makes none of the last three: verify_release refuses them. So this script calls the
stages: it converts, damages, serves each by the real server, and judges with the thresholds of
config/measurements/pico-verdict.yaml, which were written before; that of the weights' error was
added after behaviour had been judged, and before the error of a wrong release was measured. Heads
are grafted and not healed. The error is a fact of verify_release. It is summed here over the NVFP4
modules of each release, sound ones too, by verify_release's own functions, and handed in as that
artifact's fact.

The pages, pictures and records go to `--pages`, and a line of JSON to stdout. What was made stays
in `--folder`, if one is named, and is not made again.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.measure import machine, unwind_when_ended

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.environments import interpreter
from scion.artifacts.making import Output, remake
from scion.checkpoint.own_head import OwnHead
from scion.checkpoint.shards import Checkpoint, read_json
from scion.checkpoint.source_parts import Kept
from scion.config import Config, read_config
from scion.engines.vllm.server import share_forks
from scion.evaluation.verdict.records import RECORD
from scion.formats.spellings import SPELLINGS
from scion.quantization.config import Quantization
from scion.stages.evaluate_bfcl import evaluate_bfcl
from scion.stages.evaluate_bfcl_source import evaluate_bfcl_source
from scion.stages.evaluate_ifeval import evaluate_ifeval
from scion.stages.evaluate_ifeval_source import evaluate_ifeval_source
from scion.stages.evaluate_quality import evaluate_quality
from scion.stages.extract_text import extract_text
from scion.stages.fetch_donor import fetch_donor
from scion.stages.fetch_source import fetch_source
from scion.stages.fix_keys import fix_keys
from scion.stages.graft_mtp import graft_mtp
from scion.stages.judge_release import VerdictSettings, judge_release
from scion.stages.measure_serving import measure_serving
from scion.stages.quantize_nvfp4 import quantize_nvfp4
from scion.stages.render_verdict import PAGE, PICTURE, render_verdict
from scion.stages.run_agent_tasks import run_agent_tasks
from scion.stages.run_agent_tasks_source import run_agent_tasks_source

PROJECT = Path(__file__).parents[1]
PICO = PROJECT / "resources/pico"
CONFIG = PROJECT / "config/measurements/pico-verdict.yaml"
TASKS = PROJECT / "workflow/scion/evaluation/agent/agent_tasks.yaml"
TEMPLATE = PROJECT / "workflow/templates/verdict.md.jinja"
WRONG_SCALE = "model.language_model.layers.4.mlp.down_proj.weight_scale_2"
_ENVIRONMENT = "sha256:benchmark"


@dataclass(frozen=True)
class Converted:
    """A release, and the stages that it comes from."""

    text: Artifact
    quantized: Artifact
    release: Artifact


@dataclass(frozen=True)
class Judge:
    """Measures releases beside one source, and judges them.

    Attributes:
        config: Thresholds, evaluations, server.
        fixed: The bf16 source.
        folder: Where artifacts go.
    """

    config: Config
    fixed: Artifact
    folder: Path
    python: Path = field(default=PROJECT / interpreter("envs/serve-cpu"))
    evaluator_python: Path = field(default=PROJECT / interpreter("envs/evaluate"))

    def judge(self, name: str, release: Artifact, quantized: Artifact) -> Artifact:
        """The verdict on a release, by the stages of the workflow.

        Args:
            name: Of the folder that its artifacts go to.
            release: The checkpoint.
            quantized: The artifact quantize_nvfp4 behind it.
        """
        config = self.config
        measured = {
            "quantize_nvfp4": quantized,
            "verify_release": weight_error(release, self.fixed, self.folder / name),
            **self._of_source(),
            **self._of(name, release),
        }
        return judge_release(
            release=release,
            fixed=self.fixed,
            measured=measured,
            settings=VerdictSettings(
                verdict=config.verdict,
                launch=config.launch(config.serving.launch),
                mtp=config.mtp,
                ifeval=config.ifeval,
                bfcl=config.bfcl,
            ),
            output=Output.at(self.folder / name / RECORD.stage),
            environment=_ENVIRONMENT,
        )

    def _of_source(self) -> dict[str, Artifact]:
        config = self.config
        launch = config.verdict.source_launch(config.launch(config.serving.launch))
        shared: dict[str, Any] = {
            "serving": config.serving,
            "launch": launch,
            "environment": _ENVIRONMENT,
        }
        paths: dict[str, Any] = {"python": self.python, "log_folder": self.folder / "logs/source"}
        made = [
            run_agent_tasks_source(
                fixed=self.fixed,
                tasks=TASKS,
                output=Output.at(self.folder / "source/run_agent_tasks_source"),
                agent_tasks=config.agent_tasks,
                **shared,
                **paths,
            )
        ]
        paths["evaluator_python"] = self.evaluator_python
        if config.ifeval.enabled:
            made.append(
                evaluate_ifeval_source(
                    fixed=self.fixed,
                    output=Output.at(self.folder / "source/evaluate_ifeval_source"),
                    ifeval=config.ifeval,
                    **shared,
                    **paths,
                )
            )
        if config.bfcl.enabled:
            made.append(
                evaluate_bfcl_source(
                    fixed=self.fixed,
                    output=Output.at(self.folder / "source/evaluate_bfcl_source"),
                    bfcl=config.bfcl,
                    **shared,
                    **paths,
                )
            )
        return {each.stage: each for each in made}

    def _of(self, name: str, release: Artifact) -> dict[str, Artifact]:
        config = self.config
        launch = config.launch(config.serving.launch)
        shared: dict[str, Any] = {
            "release": release,
            "serving": config.serving,
            "environment": _ENVIRONMENT,
        }
        paths: dict[str, Any] = {"python": self.python, "log_folder": self.folder / "logs" / name}

        def output(stage: str) -> Output:
            return Output.at(self.folder / name / stage)

        # What a run of the workflow requires of a release would end here before it is judged.
        free = {"required_passes": 0, "minimum_rate": 0.0}
        made = [
            run_agent_tasks(
                tasks=TASKS,
                output=output("run_agent_tasks"),
                launch=launch,
                agent_tasks=config.agent_tasks.model_copy(update=free),
                **shared,
                **paths,
            )
        ]
        evaluator: dict[str, Any] = {"evaluator_python": self.evaluator_python}
        if config.ifeval.enabled:
            made.append(
                evaluate_ifeval(
                    output=output("evaluate_ifeval"),
                    launch=launch,
                    ifeval=config.ifeval,
                    **shared,
                    **paths,
                    **evaluator,
                )
            )
        if config.bfcl.enabled:
            made.append(
                evaluate_bfcl(
                    output=output("evaluate_bfcl"),
                    launch=launch,
                    bfcl=config.bfcl,
                    **shared,
                    **paths,
                    **evaluator,
                )
            )
        made += [
            measure_serving(
                prompts=PROJECT / config.measurement.prompts,
                output=output("measure_serving"),
                launches=[config.launch(name) for name in config.measurement.launches],
                measurement=config.measurement,
                **shared,
                **paths,
            ),
            evaluate_quality(
                # As fetched the engine refuses it, and it says nothing of a release.
                source=self.fixed,
                fixed=self.fixed,
                base=None,
                chats=PROJECT / config.quality.chats,
                texts=None,
                output=output("evaluate_quality"),
                launch=launch,
                quality=config.quality,
                **shared,
                **paths,
            ),
        ]
        return {each.stage: each for each in made}


def convert(
    source: Path, folder: Path, *, donor: Path | None, head: OwnHead, quantization: Quantization
) -> Converted:
    """A release, by the stages of the workflow.

    Args:
        source: The bf16 checkpoint.
        folder: Where artifacts go.
        donor: Where the head comes from; None for the source's own.
        head: What becomes of the source's own.
        quantization: Recipe and calibration.
    """

    def made(stage: str) -> Output:
        return Output.at(folder / stage)

    env = _ENVIRONMENT
    fetched = fetch_source(location=str(source), output=made("fetch_source"), environment=env)
    fixed = fix_keys(source=fetched, output=made("fix_keys"), environment=env)
    text = extract_text(fixed=fixed, output=made("extract_text"), environment=env)
    quantized = quantize_nvfp4(
        text=text, output=made("quantize_nvfp4"), settings=quantization, environment=env
    )
    release = graft_mtp(
        quantized=quantized,
        fixed=fixed,
        donor=None
        if donor is None
        else fetch_donor(location=str(donor), output=made("fetch_donor"), environment=env),
        kept=Kept(tower=False, head=head),
        output=made("graft_mtp"),
        environment=env,
    )
    return Converted(text, quantized, release)


def with_wrong_scale(release: Artifact, folder: Path, tensor: str = WRONG_SCALE) -> Artifact:
    """A release with one tensor times four, and all else as it was.

    Args:
        release: A sound one.
        folder: Where the artifact goes.
        tensor: Its name.
    """
    # Here, since torch takes seconds to import.
    from safetensors.torch import load_file, save_file

    shard = release.tensors()[tensor]["file"]

    def build(draft: Draft) -> None:
        draft.link_all(release, but={shard})
        tensors = load_file(release.folder / shard)
        tensors[tensor] = tensors[tensor] * 4
        save_file(tensors, draft.folder / shard, metadata={"format": "pt"})
        draft.facts |= release.facts

    return remake(
        Output.at(folder / "graft_mtp"),
        stage="graft_mtp",
        inputs={"release": release},
        settings={"times four": tensor},
        environment=_ENVIRONMENT,
        build=build,
    )


def weight_error(release: Artifact, fixed: Artifact, folder: Path) -> Artifact:
    """How far the weights of a release are from a source's, as verify_release tells it.

    Args:
        release: A checkpoint in NVFP4, verified or not.
        fixed: The bf16 source.
        folder: Where the artifact goes.
    """
    # Here, since torch takes seconds to import.
    from scion.formats.nvfp4 import dequantize, relative_error
    from scion.quantization.verify_nvfp4 import row_blocks
    from scion.quantization.verify_weights import overall_error

    def build(draft: Draft) -> None:
        ours, source = Checkpoint.open(release.folder), Checkpoint.open(fixed.folder)
        spelling = SPELLINGS["modelopt"]
        errors: dict[str, tuple[float, float]] = {}
        for tensor in ours.shard_of:
            if not tensor.endswith(".weight_scale_2"):
                continue
            module = tensor.removesuffix(".weight_scale_2")
            parts = [
                relative_error(weight, dequantize(packed, scale, scale_2))
                for weight, packed, scale, scale_2 in row_blocks(ours, source, module, spelling)
            ]
            errors[module] = sum(part[0] for part in parts), sum(part[1] for part in parts)
        error = overall_error(errors)
        draft.facts |= {"quantized_modules": len(errors), "relative_weight_error": error}

    return remake(
        Output.at(folder / "verify_release"),
        stage="verify_release",
        inputs={"release": release, "fixed": fixed},
        settings={},
        environment=_ENVIRONMENT,
        build=build,
    )


def keep_pages(verdict: Artifact, name: str, folder: Path, pages: Path) -> None:
    """Render page and picture of a verdict, and copy them with its record under this name."""
    pages.mkdir(parents=True, exist_ok=True)
    shown = render_verdict(
        judged=verdict,
        template=TEMPLATE,
        output=Output.at(folder / name / "render_verdict"),
        environment=_ENVIRONMENT,
    )
    page = (shown.folder / PAGE).read_text().replace(f"]({PICTURE})", f"]({name}.svg)")
    (pages / f"{name}.md").write_text(page)
    for artifact, file, ending in ((shown, PICTURE, "svg"), (verdict, RECORD.name, "json")):
        target = pages / f"{name}.{ending}"
        target.unlink(missing_ok=True)
        shutil.copyfile(artifact.folder / file, target)


def measure(
    config: Config, folder: Path, pages: Path | None, other_model: Path | None
) -> dict[str, object]:
    """Make the releases and judge them."""
    agent, base = PICO / "pico-agent", PICO / "pico-base"
    own = config.quantization
    maxima = own.model_copy(update={"recipe": "nvfp4_default"})
    sound: dict[str, Converted] = {
        name: convert(agent, folder / name, donor=base, head="absent", quantization=quantization)
        for name, quantization in {"default": own, "nvfp4_default": maxima}.items()
    }
    foreign = {"own-base": base} | ({"other-model": other_model} if other_model else {})
    converted = {
        name: convert(source, folder / name, donor=None, head="kept", quantization=own)
        for name, source in foreign.items()
    }
    default = sound["default"]
    broken = with_wrong_scale(default.release, folder / "wrong-scale")
    releases = {
        **{name: (each.release, each.quantized) for name, each in sound.items()},
        "wrong-scale": (broken, default.quantized),
        **{name: (each.release, each.quantized) for name, each in converted.items()},
    }
    judge = Judge(config, default.text, folder)
    found: dict[str, object] = {}
    for name, (release, quantized) in releases.items():
        verdict = judge.judge(name, release, quantized)
        record = read_json(verdict.folder / RECORD.name)
        found[name] = {
            "outcome": record["outcome"],
            "criteria": {each["criterion"]: each["outcome"] for each in record["criteria"]},
        }
        if pages is not None:
            keep_pages(verdict, name, folder, pages)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where artifacts stay")
    parser.add_argument("--pages", type=Path, help="where pages, pictures and records go")
    parser.add_argument(
        "--other-model", type=Path, help="folder of a checkpoint in the shape of pico-base"
    )
    args = parser.parse_args(arguments)
    config = read_config(CONFIG)
    unwind_when_ended()
    with tempfile.TemporaryDirectory(prefix="scion-verdict-") as name:
        folder = args.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        share_forks(PROJECT / interpreter("envs/serve-cpu"), config.serving, folder / "imports.log")
        found = measure(config, folder, args.pages, args.other_model)
        print(json.dumps({"releases": found, "machine": machine(folder)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
