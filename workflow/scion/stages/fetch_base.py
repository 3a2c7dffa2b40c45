"""Fetch the whole base model, as `fetch_source` does, to compare the release with it.

The graft needs only the donor's MTP head; what the base model itself makes of held-out text takes
all of its weights. Nothing of it goes into the release.
"""

import sys

from scion.stages.fetch_source import run_fetch


def main() -> int:
    """Parse arguments and run the stage."""
    return run_fetch(__doc__, stage="fetch_base")


if __name__ == "__main__":
    sys.exit(main())
