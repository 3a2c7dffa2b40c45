"""Makes several recipes of one source, and measures each beside the bf16 source.

Recipes that only choose scales are made in one run over the layers, those that move weights (GPTQ)
in one each. Every variant gets the donor's MTP head, where there is one, is measured, and is
removed; at most, the variants of one run are on the disk at the same time.

- Quality runs in torch, over the whole vocabulary: weights and activations in NVFP4 with the
  arithmetic of vLLM's emulation (`scion.evaluation.offline`). All variants read the same held-out
  tokens, so differences are taken document by document.
- MTP acceptance is counted without a server, too (`scion acceptance`).
- The agent tasks are asked of a real server, which shows that the engine loads each variant.

A run that is stopped goes on after the last variant that was measured.

The artifact holds `recipes.json`, `recipes.md`, the same as a table, and `recipes.svg`, quality
against size. `recipes.json`, losses and divergences in nats a token:

    {"versions": {…}, "hardware": {…} | null, "device", "engine": {…} | null, "calibration": {…},
     "datasets": {"chats": {…}, "texts": {…} | null}, "reference": "source",
     "default": "nvfp4_default" | null,
     "variants": [{"name", "recipe", "keep_bf16", "use_fp8", "title",
                   "bytes", "seconds", "own_seconds",
                   "parts": {"all"|"chats"|"assistant"|"texts": P | null},
                   "acceptance": {"prompts", "drafts", "per_position": [E],
                                  "mean_length": E} | null,
                   "agent_tasks": {"passed", "total", "rate": E, "tasks": […]} | null}],
     "best": {"name", "kl": E, "runner_up", "kl_change": E} | null}

with P = {"tokens", "loss": E, "perplexity": E, "loss_change": E, "kl": E, "top1_agreement": E,
"beside_default": {"loss_change": E, "kl_change": E} | null} and E as
`scion.evaluation.intervals.Estimate` is written, the document being the unit of its interval. The
source is the first variant; its recipe and its seconds are null. `seconds` is what making a variant
alone would have taken, `own_seconds` its share of that; null if a stopped run had made a part of
it. `best` is the recipe with the smallest divergence over all tokens among those that keep nothing
in bf16.
"""

import importlib.metadata
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from scion.architectures.inventory import inventory
from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.shards import Checkpoint, read_object
from scion.common.devices import device_named
from scion.common.errors import ScionError
from scion.common.files import write_json
from scion.common.progress import progress
from scion.common.section import Section
from scion.engines.config import Launch, Serving
from scion.engines.vllm.hardware import hardware
from scion.evaluation.agent.tasks import read_tasks
from scion.evaluation.chats import read_chats
from scion.evaluation.quality.documents import dataset_record, read_texts
from scion.evaluation.quality.full_vocabulary import Reference, Sums
from scion.evaluation.quality.offline_documents import read_documents
from scion.evaluation.variants import Measuring
from scion.quantization.calibration.batches import pack
from scion.quantization.calibration.hub_rows import HubData
from scion.quantization.calibration.samples import Sample, read_samples, summary
from scion.quantization.config import CALIBRATION_FILES, Quantization
from scion.quantization.locked_samples import require_locked_samples
from scion.quantization.recipe_table import RECIPES, REFERENCE
from scion.quantization.variants import VariantSource, bf16, make, size, together
from scion.quantization.variants_config import Comparison, Variant
from scion.report.pictures.recipes import recipes_picture
from scion.report.recipes import SOURCE, best, best_line, markdown, parts_record, told
from scion.stages.common_options import (
    add_copies,
    add_file,
    add_locks,
    add_optional,
    add_settings,
    read_settings,
    run_stage,
    stage_parser,
)
from scion.stages.served import add_server_options, recorded

STAGE = "compare_recipes"
_MADE, _MEASURED = "variants made", "variants measured"
RESULT, TABLE, PICTURE = "recipes.json", "recipes.md", "recipes.svg"
_PROJECTIONS = {"linear_attention": "linear attention", "attention": "all attention"}
_VERSIONS = ("scion", "nvidia-modelopt", "torch", "transformers")


class RecipeComparisonSettings(Section):
    """The sections of the configuration that this stage reads."""

    quantization: Quantization
    comparison: Comparison
    serving: Serving
    launch: Launch


def compare_recipes(
    *,
    text: Artifact,
    donor: Artifact | None,
    own_head: Artifact | None,
    chats: Path,
    texts: Path | None,
    prompts: Path,
    tasks: Path,
    output: Output,
    settings: RecipeComparisonSettings,
    python: Path,
    log_folder: Path,
    environment: str,
    locks: Sequence[Path] = (),
) -> Artifact:
    """Make and measure each variant.

    Args:
        text: The bf16 checkpoint that is quantized.
        donor: The MTP head, if it is grafted.
        own_head: The source with sound keys, if its own head stays.
        chats: JSONL of held-out chats.
        texts: JSONL of held-out plain texts, if there are to be any.
        prompts: JSONL of chats to count acceptance on.
        tasks: YAML of agent tasks.
        output: Where the artifact goes.
        settings: Variants and limits; how to calibrate; how to serve.
        python: Interpreter of the serving environment.
        log_folder: Where `compare_recipes.<variant>.server.log` go.
        environment: Identity of the locked environment.
        locks: Say what the files of data sets of the hub have to be; none: nobody has locked them.

    Raises:
        ScionError: A file can't be used; a variant can't be made, or the engine does not load it.
    """
    comparison = settings.comparison
    inputs: dict[str, Artifact | Path] = {"text": text, "chats": chats}
    inputs |= {"donor": donor} if donor else {}
    inputs |= {"own_head": own_head} if own_head else {}
    inputs |= {"texts": texts} if texts else {}
    inputs |= {"prompts": prompts, "tasks": tasks}
    for number, each in enumerate(settings.quantization.calibration.sets, start=1):
        if (local := Path(each.dataset)).is_file():
            inputs[f"calibration_{number}"] = local

    def build(draft: Draft) -> None:
        _check_server(settings)
        contents = [
            *read_chats(chats, limit=comparison.samples),
            *(read_texts(texts, limit=comparison.samples) if texts else []),
        ]
        hub = HubData(locks)
        source, samples = _source(text, donor, own_head, settings, draft, hub)
        draft.facts |= {CALIBRATION_FILES: hub.read} if hub.read else {}
        limit = comparison.acceptance_prompts
        measuring = Measuring(
            stage=STAGE,
            documents=read_documents(text.folder, contents, limit=comparison.max_tokens),
            prompts=read_chats(prompts, limit=limit) if limit else [],
            tasks=read_tasks(tasks),
            comparison=comparison,
            serving=settings.serving,
            launch=settings.launch,
            device=source.device,
            python=python,
            log_folder=log_folder,
        )
        entries = _measure(source, comparison.variants, measuring)
        documents = measuring.documents
        result = {
            **_about(source.device, settings, samples, python),
            "engine": measuring.engine or next((e["engine"] for e in entries if e["engine"]), None),
            "datasets": {
                "chats": dataset_record(chats, documents, kind="chats"),
                "texts": dataset_record(texts, documents, kind="texts") if texts else None,
            },
            "reference": SOURCE,
            "default": REFERENCE if REFERENCE in [entry["name"] for entry in entries] else None,
            "variants": _records(entries),
            "best": best(entries),
        }
        write_json(draft.folder / RESULT, result)
        (draft.folder / TABLE).write_text(markdown(result))
        (draft.folder / PICTURE).write_text(recipes_picture(result).svg)

    artifact = remake(
        output,
        stage=STAGE,
        inputs=inputs,
        settings={
            "quantization": settings.quantization.model_dump(
                mode="json",
                exclude={
                    "device",
                    "recipe",
                    "keep_bf16",
                    "use_fp8",
                    "activations",
                    "input_scales",
                },
            ),
            "comparison": comparison.model_dump(mode="json"),
            "serving": recorded(settings.serving),
            "launch": settings.launch.model_dump(mode="json", exclude={"title"}),
        },
        environment=environment,
        build=build,
    )
    require_locked_samples(artifact, locks)
    return artifact


def _check_server(settings: RecipeComparisonSettings) -> None:
    if settings.serving.server_url is not None and settings.comparison.agent_cases is not None:
        raise ScionError(
            "the comparison serves several models, and serving.server_url names one server",
            where="serving.server_url",
            expected="null, so that the servers are started in turn",
            found=settings.serving.server_url,
            hint="set comparison.agent_cases to null to leave out what needs a server",
        )


def _source(
    text: Artifact,
    donor: Artifact | None,
    own_head: Artifact | None,
    settings: RecipeComparisonSettings,
    draft: Draft,
    hub: HubData,
) -> tuple[VariantSource, list[Sample]]:
    checkpoint = Checkpoint.open(text.folder)
    quantization = settings.quantization
    samples = read_samples(checkpoint, quantization.calibration, hub)
    source = VariantSource(
        text=text,
        donor=donor,
        own_head=own_head,
        checkpoint=checkpoint,
        expected=inventory(checkpoint.config, where=text.folder / "config.json"),
        batches=pack(samples, quantization.calibration.pack_tokens),
        device=device_named(quantization.device, where="quantization.device"),
        max_shard_megabytes=quantization.max_shard_megabytes,
        # Variants in the making, and what was measured of others.
        work=draft.work,
        request=draft.recipe,
    )
    return source, samples


def _about(
    device: torch.device,
    settings: RecipeComparisonSettings,
    samples: Sequence[Sample],
    python: Path,
) -> dict[str, Any]:
    # Without agent tasks nothing is served.
    served = settings.serving if settings.comparison.agent_cases is not None else None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "versions": {package: importlib.metadata.version(package) for package in _VERSIONS},
        "hardware": None if served is None else hardware(served, settings.launch, python=python),
        "device": name,
        "calibration": summary(samples),
    }


# One variant after the other


def _measure(
    source: VariantSource, variants: Sequence[Variant], measuring: Measuring
) -> list[dict[str, Any]]:
    """The source and all variants, each as `_entry` gives it, in the order of the configuration."""
    found = {name: _kept(source, name) for name in (SOURCE, *(each.name for each in variants))}
    left = [variant for variant in variants if found[variant.name] is None]
    work = {_MADE: len(left), _MEASURED: len(left) + (found[SOURCE] is None)}
    with progress("variants", work) as told:
        folder = bf16(source)
        _say("source: reading the held-out documents")
        told.doing("source")
        reference = measuring.reference(folder)
        if found[SOURCE] is None:
            about = {"name": SOURCE, "recipe": None, "title": "bf16 source"}
            about |= {"keep_bf16": None, "use_fp8": None}
            found[SOURCE] = _entry(source, folder, about, measuring, reference)
            told.advance(_MEASURED)
        for run in together(left):
            names = ", ".join(variant.name for variant in run)
            _say(f"making {names}")
            told.doing(f"making {names}")
            finished = make(source, run)
            told.advance(_MADE, len(run))
            for made in finished:
                name = made.variant.name
                told.doing(f"measuring {name}")
                about = {
                    **_description(made.variant),
                    "seconds": _rounded(made.seconds),
                    "own_seconds": _rounded(made.own_seconds),
                }
                found[name] = _entry(source, made.folder, about, measuring, reference)
                shutil.rmtree(made.folder)
                told.advance(_MEASURED)
    return [entry for entry in found.values() if entry is not None]


def _description(variant: Variant) -> dict[str, Any]:
    mixed = (
        f"{_PROJECTIONS[chosen]} {form}"
        for chosen, form in ((variant.keep_bf16, "bf16"), (variant.use_fp8, "FP8"))
        if chosen != "none"
    )
    return {
        "name": variant.name,
        **variant.model_dump(mode="json"),
        "title": ", ".join([RECIPES[variant.recipe].title, *mixed]),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _entry(
    source: VariantSource,
    folder: Path,
    about: dict[str, Any],
    measuring: Measuring,
    reference: Reference,
) -> dict[str, Any]:
    """What is known of a variant, its sums by document included; kept until all are measured."""
    sums = measuring.quality(folder, reference)
    entry = {
        "seconds": None,
        "own_seconds": None,
        **about,
        "bytes": size(folder),
        "sums": {part: total and asdict(total) for part, total in sums.items()},
        "acceptance": measuring.acceptance(folder),
        "agent_tasks": measuring.agent_tasks(folder, about["name"]),
        "engine": measuring.engine,
    }
    write_json(_place(source, about["name"]), {"request": source.request, "entry": entry})
    _say(told(entry))
    return entry


def _place(source: VariantSource, name: str) -> Path:
    return source.work / f"{name}.json"


def _kept(source: VariantSource, name: str) -> dict[str, Any] | None:
    """What a run that was stopped has measured of a variant."""
    path = _place(source, name)
    if not path.is_file():
        return None
    content = read_object(path)
    return content["entry"] if content["request"] == source.request else None


def _records(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries as `recipes.json` holds them: estimates in place of sums."""
    sums = {
        entry["name"]: {part: s and Sums(**s) for part, s in entry["sums"].items()}
        for entry in entries
    }
    return [
        {
            **{key: value for key, value in entry.items() if key not in ("sums", "engine")},
            "parts": parts_record(sums[entry["name"]], sums[SOURCE], sums.get(REFERENCE)),
        }
        for entry in entries
    ]


def _say(what: str) -> None:
    print(f"{STAGE}: {what}", file=sys.stderr, flush=True)


def main() -> int:
    """Parse the command line and run the stage."""
    parser = stage_parser(
        __doc__, inputs={"text": "pointer of the bf16 checkpoint that is quantized"}
    )
    add_optional(parser, "donor", "POINTER", "pointer of fetch_donor")
    add_optional(parser, "own-head", "POINTER", "pointer of fix_keys, if the own head stays")
    add_file(parser, "chats", "JSONL of held-out chats")
    add_optional(parser, "texts", "FILE", "JSONL of held-out plain texts")
    add_file(parser, "prompts", "JSONL of chats to count acceptance on")
    add_file(parser, "tasks", "YAML of tasks")
    add_server_options(parser)
    add_settings(parser, RecipeComparisonSettings)
    add_locks(parser)
    add_copies(parser)
    arguments = parser.parse_args()

    made: list[Artifact] = []

    def command(output: Output) -> Artifact:
        artifact = compare_recipes(
            text=output.store.open_pointer(arguments.text),
            donor=output.store.open_pointer(arguments.donor) if arguments.donor else None,
            own_head=output.store.open_pointer(arguments.own_head) if arguments.own_head else None,
            chats=arguments.chats,
            texts=arguments.texts,
            prompts=arguments.prompts,
            tasks=arguments.tasks,
            output=output,
            settings=read_settings(arguments.settings, RecipeComparisonSettings),
            python=arguments.python,
            log_folder=arguments.log_folder,
            environment=arguments.environment,
            locks=arguments.lock,
        )
        made.append(artifact)
        return artifact

    code = run_stage(arguments, command)
    for artifact in made:
        _say(best_line(read_object(artifact.folder / RESULT)))
    return code


if __name__ == "__main__":
    sys.exit(main())
