"""Run `snakemake --lint`, less the one lint that Scion answers in another way.

Snakemake wants a conda environment or a container for each rule. Scion's rules run in the locked
environments of uv, whose digests are parameters of the rules: a conda environment beside them would
be a second, looser description of the same software. Snakemake can't switch off a single lint.
"""

import re
import subprocess
import sys
from pathlib import Path

ANSWERED = "Specify a conda environment or container for each rule."

# Snakemake 9.27 prints the same text for `--lint json`, so the text is what is read.
_ITEM = re.compile(r"^Lints for (?P<item>.+):$")
_LINT = re.compile(r"^    \* (?P<title>.+):$")


def lints(report: str) -> list[str]:
    """A line for each lint of a report that is left: the rule or file, and what it is."""
    lines: list[str] = []
    item = ""
    for line in report.splitlines():
        if match := _ITEM.match(line):
            item = match["item"]
        elif (match := _LINT.match(line)) and match["title"] != ANSWERED:
            lines.append(f"{item}: {match['title']}")
    return lines


def main() -> int:
    """Lint the workflow in the current folder."""
    snakemake = Path(sys.executable).with_name("snakemake")
    done = subprocess.run([snakemake, "--lint"], capture_output=True, text=True)
    report = done.stdout + done.stderr
    left = lints(report)
    if left or (done.returncode and ANSWERED not in report):
        print(report, file=sys.stderr)
        print("\n".join(left), file=sys.stderr)
        return 1
    print("snakemake --lint: nothing left", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
