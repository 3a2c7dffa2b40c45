"""What `scion lint --deep` does with tensor data, and no other rule: FOLDER."""

import sys

from scion.checkpoint.folder_source import open_source
from scion.lint.rules.deep import RULES
from scion.lint.subject import Subject


def main() -> int:
    """Scan a folder; 1 if a rule finds fault with what was generated sound."""
    subject = Subject.open(open_source(sys.argv[1]), engines=())
    findings = [finding for rule in RULES for finding in rule.check(subject)]
    for finding in findings:
        print(finding, file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
