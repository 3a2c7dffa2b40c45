"""Lint the source before any work goes into it.

A fault that a later stage repairs (repeated prefixes, a dropped MTP head) is reported with the
stage's name; any other error ends the run here, in seconds, before a tensor is quantized.
"""

import sys

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.common.files import write_json
from scion.lint.config import Lint
from scion.lint.gate import (
    LintSettings,
    in_one_line,
    judged_engines,
    lint_folder,
    require_sound,
)
from scion.lint.json_report import finding_row
from scion.stages.common_options import add_settings, read_settings, run_stage, stage_parser

REPORT = "lint_source.json"


def lint_source(*, source: Artifact, output: Output, settings: Lint, environment: str) -> Artifact:
    """Report what is wrong with the source, and refuse what no stage repairs.

    Args:
        source: The fetched checkpoint.
        output: Where the artifact goes; it holds the report.
        settings: Engines to judge for, and rules to leave out.
        environment: Identity of the locked environment.

    Raises:
        ScionError: A finding of severity error that no stage repairs.
    """

    def build(draft: Draft) -> None:
        results = lint_folder(source.folder, settings)
        for result in results:
            after = f"; {result.stage} repairs it" if result.stage else ""
            print(f"{result.rule.severity} {in_one_line(result)}{after}", file=sys.stderr)
        left = [result for result in results if result.stage is None]
        require_sound(left, source.folder, hint="choose another revision of the source")
        write_json(draft.folder / REPORT, [finding_row(result) for result in results])
        draft.facts |= {
            "engines": judged_engines(settings),
            "findings": len(results),
            "repaired_by": sorted({result.stage for result in results if result.stage}),
        }

    return remake(
        output,
        stage="lint_source",
        inputs={"source": source},
        settings={"lint": settings.model_dump(mode="json")},
        environment=environment,
        build=build,
    )


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={"source": "pointer of fetch_source"})
    add_settings(parser, LintSettings)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: lint_source(
            source=output.store.open_pointer(args.source),
            output=output,
            settings=read_settings(args.settings, LintSettings).lint,
            environment=args.environment,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
