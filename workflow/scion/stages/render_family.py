"""Write the page of a family: its releases beside each other, with a picture.

The artifact holds `README.md` and `family.svg`, to which it links, made of the record of
`compare_family`.
"""

import sys
from pathlib import Path

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.artifacts.release_layout import CARD
from scion.checkpoint.shards import read_json
from scion.evaluation.family.config import RECORD
from scion.stages.common_options import add_copies, add_file, run_stage, stage_parser

PICTURE = "family.svg"


def render_family(
    *, compared: Artifact, template: Path, output: Output, environment: str
) -> Artifact:
    """Render the page of a comparison.

    Args:
        compared: The artifact compare_family.
        template: The jinja template.
        output: Where the artifact goes.
        environment: Identity of the locked environment.
    """

    def build(draft: Draft) -> None:
        # Here, because matplotlib takes a second to import, and the store may have the artifact.
        from scion.report.family import family_values
        from scion.report.pictures.family import family_picture
        from scion.report.template import render

        record = read_json(compared.folder / RECORD.name)
        picture = family_picture(record)
        (draft.folder / PICTURE).write_text(picture.svg)
        values = {**family_values(record), "picture": f"![{picture.alt}]({PICTURE})"}
        (draft.folder / CARD).write_text(render(template, values))

    return remake(
        output,
        stage="render_family",
        inputs={"compared": compared, "template": template},
        settings={},
        environment=environment,
        build=build,
    )


def main() -> int:
    """Parse the command line and run the stage."""
    parser = stage_parser(__doc__, inputs={"compared": "pointer of compare_family"})
    add_file(parser, "template", "jinja template of the page")
    add_copies(parser)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: render_family(
            compared=output.store.open_pointer(args.compared),
            template=args.template,
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
