"""What stages that start a server share: their options, and the settings that do not count."""

import argparse
from pathlib import Path

# Keys of `serving` that leave a result as it is (the launch itself is recorded); manifests do
# without them.
UNMEASURED = {"launch", "port", "start_seconds"}


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add `--python` and `--log-folder`."""
    parser.add_argument(
        "--python",
        required=True,
        type=Path,
        metavar="FILE",
        help="interpreter of the serving environment",
    )
    parser.add_argument(
        "--log-folder",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="folder for the servers' logs",
    )
