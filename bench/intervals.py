"""Do the card's 95 % intervals hold the truth in 95 of 100 cases?

Samples of which the truth is known are drawn as the card's numbers rest on them: few prompts,
drafts that correlate within one, instructions that stand or fall together, skewed divergences. The
last line of stdout is one JSON object.

    .venv/bin/python bench/intervals.py --output docs/measurements/intervals.json
"""

import argparse
import sys
from pathlib import Path

from support.interval_coverage import SCENARIOS
from support.measure import tell


def main() -> int:
    """Parse arguments, simulate, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=10_000, help="of each kind (10,000)")
    parser.add_argument("--output", type=Path, help="write the report there as well, indented")
    args = parser.parse_args()
    rows = []
    for scenario in SCENARIOS:
        rows.append(scenario.simulate(args.samples))
        told = f"{rows[-1]['coverage']:.3f}  {scenario.method}, {scenario.card}: {scenario.data}"
        print(told, file=sys.stderr, flush=True)
    report = {
        "benchmark": "intervals",
        "command": f"bench/intervals.py {' '.join(sys.argv[1:])}",
        "level": 0.95,
        "scenarios": rows,
    }
    tell(report, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
