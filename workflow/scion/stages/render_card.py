"""Write the model card and its pictures: every number was measured, and says how certain it is.

The artifact holds `README.md`, with the hub's metadata, and what it links to: `pictures/*.svg`, and
`PROVENANCE.md`, the stages behind the release; and `.eval_results/*.yaml` where a score was made on
all of a public data set.
The template (`workflow/templates/card.md.jinja`) sees only the manifests and records of the other
stages and the sections `card` and `launches` of the configuration. A value that is missing is an
error (jinja's StrictUndefined), never an empty cell. Each stage that measures, one of
`scion.report.measurements`, has a section of the card and a template of its own; an optional one
that was left out is not among the evidence, and its section says so.
"""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.release_layout import CARD, PICTURES
from scion.artifacts.software import FACT, Software, is_outdated, this_software
from scion.common.section import Section
from scion.common.text import hardware, size
from scion.engines.config import Launch
from scion.evaluation.agent.tasks import read_tasks
from scion.evaluation.serving.config import RECORD as SERVING
from scion.formats.modelopt import BLOCK, W4A16
from scion.formats.spellings import DEFAULT_SPELLING
from scion.report.card.architecture import head_values, part_values
from scion.report.card.eval_results import FOLDER, eval_result_files, model_index
from scion.report.card.glance import measured_lines
from scion.report.card.hermes import hermes_values
from scion.report.card.launches import launch_values
from scion.report.card.memory import fitting_gpus
from scion.report.card.provenance_page import PROVENANCE_PAGE, provenance_page, stages_picture
from scion.report.card.typography import unbroken, without_tags
from scion.report.config import Card
from scion.report.measurements import MEASUREMENTS, read_records
from scion.report.pictures.card_pictures import pictures
from scion.report.template import render
from scion.stages.common_options import (
    add_copies,
    add_file,
    add_settings,
    read_settings,
    run_stage,
    stage_parser,
)
from scion.stages.evidence import add_evidence, open_evidence

# The task whose request the card shows as a command.
CURL_TASK = "parallel_tool_calls"
_SECTION = ".md.jinja"


class CardSettings(Section):
    """The sections of the configuration that this stage reads."""

    card: Card
    launches: tuple[Launch, ...]


def render_card(
    *,
    release: Artifact,
    evidence: Mapping[str, Artifact],
    template: Path,
    sections: Sequence[Path],
    tasks: Path,
    settings: CardSettings,
    made_by: Software,
    output: Output,
    environment: str,
) -> Artifact:
    """Render the card of a verified and measured release.

    Args:
        release: The grafted checkpoint.
        evidence: The artifacts of all stages that the card quotes, by stage.
        template: The jinja template.
        sections: The templates of the measurements' sections, `<stage>.md.jinja`.
        tasks: YAML of the agent tasks, for the example request.
        settings: What can't be measured: names, licence, launches.
        made_by: The Scion that renders. It is named and recorded, but is no part of the recipe.
        output: Where the artifact goes.
        environment: Identity of the locked environment.

    Raises:
        ScionError: The template asks for something that no stage recorded.
    """

    def build(draft: Draft) -> None:
        records = read_records(evidence)
        steps = {**evidence, release.stage: release}
        manifests = {stage: artifact.manifest for stage, artifact in steps.items()}
        drawn = [*pictures(records), stages_picture(manifests)]
        (draft.folder / PICTURES).mkdir()
        for picture in drawn:
            (draft.folder / PICTURES / f"{picture.name}.svg").write_text(picture.svg)
        values = card_values(release, evidence, settings, records)
        values["pictures"] = {
            picture.name: f"![{_plain(picture.alt)}]({PICTURES}/{picture.name}.svg)"
            for picture in drawn
        }
        values["curl_body"] = _curl_body(tasks, settings.card)
        values |= {"made_by": made_by, "scion": linked(made_by)}
        (draft.folder / CARD).write_text(unbroken(render(template, values, sections)))
        (draft.folder / PROVENANCE_PAGE).write_text(provenance_page(manifests))
        for name, told in eval_result_files(records).items():
            (draft.folder / FOLDER).mkdir(exist_ok=True)
            (draft.folder / FOLDER / name).write_text(told)
        draft.facts[FACT] = made_by.record()

    return remake(
        output,
        stage="render_card",
        inputs={
            **evidence,
            release.stage: release,
            "template": template,
            **{f"section {path.name.removesuffix(_SECTION)}": path for path in sections},
            "tasks": tasks,
        },
        settings=settings.model_dump(mode="json"),
        environment=environment,
        build=build,
        quotes_manifests=True,
        is_outdated=lambda manifest: is_outdated(manifest, made_by),
    )


def linked(software: Software) -> str:
    """Name and version, which lead to the code where its address is known."""
    name = f"Scion {software.version}"
    return name if software.page is None else f"[{name}]({software.page})"


def card_values(
    release: Artifact,
    evidence: Mapping[str, Artifact],
    settings: CardSettings,
    records: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """All that the template may quote, but for pictures, example request and `made_by`."""
    text_only = release.facts["text_only"]
    serving = records[SERVING.stage]
    fix, text = evidence["fix_keys"].facts, evidence["extract_text"].facts
    steps = {**evidence, release.stage: release}
    return {
        "card": _without_tags(settings.card),
        "metadata": _metadata(settings.card, records, text_only=text_only),
        "block": BLOCK,
        **part_values(
            release.folder,
            recipe=release.facts["recipe"],
            head=release.facts.get("quantized_head"),
        ),
        "weights_alone": release.facts["recipe"]["four_bits"] == W4A16,
        "spelling": evidence["respell"].facts["spelling"]
        if "respell" in evidence
        else DEFAULT_SPELLING.name,
        "size": size,
        "text_only": text_only,
        "source": evidence["fetch_source"].facts,
        "fix": fix,
        "text": text,
        "quantize": evidence["quantize_nvfp4"].facts,
        "graft": release.facts,
        "head": head_values(settings.card, release.facts, fix=fix, text=text),
        "verify": evidence["verify_release"].facts,
        "weights": release.content,
        "steps": [{"name": name, "content": made.content} for name, made in steps.items()],
        "launches": launch_values(
            release.folder, settings.launches, serving, repository=settings.card.repository
        ),
        "hermes": hermes_values(settings.launches, model=settings.card.repository),
        "fits": fitting_gpus(release.folder, settings.launches[0], text_only=text_only),
        "glance": measured_lines(records),
        "engine": serving["engine"],
        "hardware": hardware(serving["hardware"]),
        "cpu": serving["hardware"]["kind"] == "cpu",
        "sections": _sections(evidence, records),
    }


def _sections(
    evidence: Mapping[str, Artifact], records: Mapping[str, dict[str, Any]]
) -> Sequence[dict[str, Any]]:
    """For each measurement its section's template, and what that may quote: None if left out."""
    return [
        {
            "file": f"{stage}{_SECTION}",
            "measured": row.card(records[stage]) if stage in records else None,
            "made_from": evidence[stage].manifest["made_from"] if stage in records else None,
        }
        for stage, row in MEASUREMENTS.items()
    ]


def _metadata(card: Card, records: Mapping[str, dict[str, Any]], *, text_only: bool) -> str:
    """The YAML block that the hub reads."""
    results = model_index(records, base=f"{card.title}, quantized")
    data = ModelCardData(
        # A name belongs to results, and results to a name.
        model_name=card.title if results else None,
        eval_results=results or None,
        license=card.license,
        base_model=card.parent,
        base_model_relation="quantized",
        library_name="vllm",
        pipeline_tag="text-generation" if text_only else "image-text-to-text",
        tags=list(card.tags),
    )
    return data.to_yaml()


def _without_tags(card: Card) -> Card:
    """The section with its sentences as text, not as HTML."""
    texts = card.model_dump(include={"title", "summary", "hardware_target", "harness_only_note"})
    return card.model_copy(
        update={name: text and without_tags(text) for name, text in texts.items()}
    )


def _plain(text: str) -> str:
    """Text that can stand in the brackets of a Markdown picture."""
    return " ".join(text.replace("[", "(").replace("]", ")").split())


def _curl_body(tasks: Path, card: Card) -> str:
    """The request of the parallel task as JSON that can stand in single quotes of a shell."""
    body = {"model": card.repository, **read_tasks(tasks).canonical_request(CURL_TASK)}
    return json.dumps(body, indent=2, ensure_ascii=False).replace("'", "'\\''")


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(
        __doc__, inputs={"release": "pointer of graft_mtp, heal_mtp or quantize_mtp"}
    )
    add_evidence(parser)
    add_file(parser, "template", "jinja template of the card")
    parser.add_argument("--made-by", metavar="JSON", help="the Scion that runs, to be named")
    parser.add_argument(
        "--sections",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="jinja templates of the measurements' sections, <stage>.md.jinja",
    )
    add_file(parser, "tasks", "YAML of the agent tasks")
    add_settings(parser, CardSettings)
    add_copies(parser)
    args = parser.parse_args()

    def command(output: Output) -> Artifact:
        artifact = render_card(
            release=output.store.open_pointer(args.release),
            evidence=open_evidence(output.store, args.evidence),
            template=args.template,
            sections=args.sections,
            tasks=args.tasks,
            settings=read_settings(args.settings, CardSettings),
            made_by=Software.read(args.made_by) if args.made_by else this_software(),
            output=output,
            environment=args.environment,
        )
        if output.copies is not None:
            # By name: how the page looks is nothing of the artifact.
            page = importlib.import_module("scion.report.card.page")
            text = page.card_page(artifact.folder / CARD)
            (output.copies / page.PAGE).write_text(text)
        return artifact

    return run_stage(args, command)


if __name__ == "__main__":
    sys.exit(main())
