"""Write the pages of docs/ that are generated from the code (`make reference`).

    python tools/reference.py

docs/reference/config.md comes from the models of the configuration, docs/reference/cli.md from the
command line's parsers, docs/lint-rules.md from the rules, and from the records in docs/measurements
the table of results in README.md and what results.md says of the embedded release. A test fails
where one of them is not what the code makes.
"""

import argparse
import sys
from pathlib import Path

from reference_cli import cli_reference
from reference_config import config_reference
from result_tables import embedded_release, readme_table, replaced
from scion.lint.all_rules import RULES
from scion.lint.catalogue import REFERENCE, reference

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[Path, str]:
    """The text of each generated page, by its path."""
    readme, results = ROOT / "README.md", ROOT / "docs/measurements/results.md"
    return {
        ROOT / "docs/reference/config.md": config_reference(),
        ROOT / "docs/reference/cli.md": cli_reference(),
        ROOT / REFERENCE: reference(RULES),
        readme: replaced(readme.read_text(), readme_table()),
        results: replaced(results.read_text(), embedded_release()),
    }


def main() -> int:
    """Write the pages that are not what the code makes, and name them."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"written: {path.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
