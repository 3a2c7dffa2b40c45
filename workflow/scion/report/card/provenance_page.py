"""The page that a card links to: every stage behind the release, with what it was made from."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from scion.artifacts.release_layout import PICTURES, RESULTS, Manifest, placed_files, stages_before
from scion.common.text import printable

if TYPE_CHECKING:
    from scion.report.pictures.style import Picture

PROVENANCE_PAGE = "PROVENANCE.md"
_PICTURE = "provenance"


def stages_picture(manifests: Mapping[str, Manifest]) -> "Picture":
    """The stages as a picture.

    Args:
        manifests: By stage.
    """
    # Who derives the page again, to sign it, needs nothing that draws.
    from scion.report.pictures.chain import chain_picture

    made_from = {
        stage: [before for before in stages_before(manifest) if before in manifests]
        for stage, manifest in manifests.items()
    }
    contents = {stage: manifest["content"] for stage, manifest in manifests.items()}
    return chain_picture(_PICTURE, "What the release was made from", made_from, contents)


def provenance_page(manifests: Mapping[str, Manifest]) -> str:
    """The page, in Markdown; it follows from the manifests, so that others can derive it.

    Args:
        manifests: By stage, in the order of the card's table of steps.
    """
    return "\n".join(_lines(manifests)) + "\n"


def _lines(manifests: Mapping[str, Manifest]) -> Iterator[str]:
    yield "# Where this release came from"
    yield ""
    yield (
        "Every step is a stage of the workflow; an arrow leads from what a step was made from. "
        "Digests are of all files of an artifact; `provenance/` has the manifests in full. "
        '`scion explain FOLDER NAME` follows a tensor, a file or a number, such as `"82.1 %"`.'
    )
    yield ""
    yield f"![The stages, each below those it was made from]({PICTURES}/{_PICTURE}.svg)"
    for stage, manifest in manifests.items():
        yield ""
        yield f"## {stage}"
        yield ""
        yield f"- content `{manifest['content']}`"
        for name, made in manifest["made_from"].items():
            yield f"- from {_source(name, made)}"
        placed = [
            file for file in placed_files(stage, manifest).values() if file.startswith(RESULTS)
        ]
        yield from (f"- recorded in [{file}]({file})" for file in placed)
        yield f"- code `{manifest['code']}`"
        yield f"- environment `{manifest['environment']}`"
        if manifest["settings"]:
            yield ""
            yield "```json"
            yield json.dumps(manifest["settings"], indent=2, ensure_ascii=True)
            yield "```"


def _source(name: str, made: Mapping[str, Any]) -> str:
    if "stage" in made:
        return f"[{made['stage']}](#{made['stage']}) as `{printable(name)}`"
    return f"the file `{printable(made['file'])}`, SHA-256 `{made['sha256']}`"
