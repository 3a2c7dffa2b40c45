"""Write the page of a verdict: every criterion with its sums, and a picture.

The artifact holds `verdict.md` and `verdict.svg`, to which it links, made of the record of
`judge_release`. The card has the same table and picture; this page stands for itself.
"""

import sys
from pathlib import Path

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.shards import read_json
from scion.evaluation.verdict.records import RECORD
from scion.stages.common_options import add_copies, add_file, run_stage, stage_parser

PAGE, PICTURE = "verdict.md", "verdict.svg"


def render_verdict(
    *, judged: Artifact, template: Path, output: Output, environment: str
) -> Artifact:
    """Render the page of a verdict.

    Args:
        judged: The artifact judge_release.
        template: The jinja template.
        output: Where the artifact goes.
        environment: Identity of the locked environment.
    """

    def build(draft: Draft) -> None:
        # Here, because matplotlib takes a second to import, and the store may have the artifact.
        from scion.report.pictures.verdict import verdict_picture
        from scion.report.template import render
        from scion.report.verdict import verdict_values

        record = read_json(judged.folder / RECORD.name)
        picture = verdict_picture(record)
        (draft.folder / PICTURE).write_text(picture.svg)
        values = {**verdict_values(record), "picture": f"![{picture.alt}]({PICTURE})"}
        (draft.folder / PAGE).write_text(render(template, values))

    return remake(
        output,
        stage="render_verdict",
        inputs={"judged": judged, "template": template},
        settings={},
        environment=environment,
        build=build,
    )


def main() -> int:
    """Parse the command line and run the stage."""
    parser = stage_parser(__doc__, inputs={"judged": "pointer of judge_release"})
    add_file(parser, "template", "jinja template of the page")
    add_copies(parser)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: render_verdict(
            judged=output.store.open_pointer(args.judged),
            template=args.template,
            output=output,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
