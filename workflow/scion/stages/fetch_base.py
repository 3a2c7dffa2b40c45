"""Fetch the whole base model, as `fetch_source` does, to compare the release with it.

The graft needs only the donor's MTP head; what the base model itself makes of held-out text takes
all of its weights. Nothing of it goes into the release.
"""

import sys

from scion.stages.common_options import run_stage, stage_parser
from scion.stages.fetch_source import add_location, fetch_source, planned_source


def main() -> int:
    """Parse arguments and run the stage."""
    parser = stage_parser(__doc__, inputs={})
    add_location(parser)
    args = parser.parse_args()
    return run_stage(
        args,
        lambda output: fetch_source(
            location=args.location,
            output=output,
            environment=args.environment,
            planned=planned_source(args),
            stage="fetch_base",
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
