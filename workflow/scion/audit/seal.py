"""What a release proves alone: its files against the seal, manifest against manifest, and lint."""

from pathlib import Path

from scion.artifacts.file_check import Watch
from scion.artifacts.file_tree import FileTree, FolderTree
from scion.artifacts.manifest import MANIFEST
from scion.artifacts.release_check import check_release
from scion.audit.claims import Claims
from scion.audit.verdict import Fault, PartVerdict, ProofLevel
from scion.checkpoint.folder_source import open_source
from scion.checkpoint.hub.location import HubRepository, parse_location
from scion.common.errors import ScionError
from scion.common.text import size
from scion.engines.registry.engines import DEFAULT_ENGINES
from scion.lint.all_rules import RULES
from scion.lint.rule import Severity, run, select_rules, with_telling
from scion.lint.subject import Subject

SEAL = "seal"
LINT = "lint"


def audit_seal(
    tree: FileTree, *, watch: Watch | None = None
) -> tuple[PartVerdict, Claims, str | None]:
    """Hold every file of a release against its seal, and each manifest against the next.

    Args:
        tree: Its files.
        watch: Sees every chunk that is read.

    Returns:
        The verdict, what the release says of itself, and the root digest of its seal.

    Raises:
        ScionError: It can't be read.
    """
    if MANIFEST not in tree.files:
        told = f"no {MANIFEST}: nothing says which files there should be, and who made them"
        return PartVerdict(SEAL, ProofLevel.UNPROVED, told, len(tree.files)), Claims(), None
    try:
        sealed, problems = check_release(tree, watch=watch)
    except ScionError as error:
        fault = Fault(MANIFEST, error.problem, error.expected, error.found)
        told = "the release's own manifest can't be used"
        return PartVerdict.of(SEAL, told, count=1, faults=[fault]), Claims.read(tree), None
    files = sealed["files"]
    faults = [_fault(line) for line in problems]
    read = size(sum(entry["size"] for entry in files.values()))
    told = f"{len(files)} files, {read}, each the one that its stage recorded"
    verdict = PartVerdict.of(SEAL, told, count=len(files), faults=faults)
    return verdict, Claims.read(tree), sealed["root"]


def audit_lint(release: str, *, deep: bool) -> PartVerdict:
    """What `scion lint` says of a release, for its default engines.

    Args:
        release: Its folder or repository.
        deep: Whether the rules that read the tensors' data are run, too.
    """
    subject = Subject.open(open_source(release), engines=DEFAULT_ENGINES, tensor_parallel=(1,))
    rules = with_telling(select_rules(RULES, deep=deep), RULES)
    results = run(subject, rules)
    errors = [result for result in results if result.rule.severity is Severity.ERROR]
    faults = [
        Fault(
            result.finding.subject or result.finding.file,
            f"{result.rule.code} {result.rule.title}",
            result.finding.expected,
            result.finding.found,
        )
        for result in errors
    ]
    engines = " and ".join(map(str, DEFAULT_ENGINES))
    told = f"{len(rules)} rules, for {engines}; {len(results) - len(errors)} warnings and notes"
    return PartVerdict.of(LINT, told, count=len(rules), faults=faults)


def release_tree(release: str) -> FileTree:
    """The files of a release, in a folder or on the hub.

    Raises:
        ScionError: There is no such folder or repository.
    """
    location = parse_location(release)
    if isinstance(location, HubRepository):
        # The hub's client takes half a second to import.
        from scion.artifacts.hub_tree import HubTree

        location.require_model()
        return HubTree(location)
    folder = Path(release)
    if not folder.is_dir():
        raise ScionError(
            "there is no such release",
            where=release,
            expected="its folder, or hf://owner/name[@revision]",
            found="a file" if folder.exists() else "nothing",
            hint="the workflow makes results/<release>/release",
        )
    return FolderTree(folder)


def _fault(line: str) -> Fault:
    """A line of the check: a file, and what is wrong with it."""
    file, _, problem = line.partition(": ")
    return Fault(file, problem, "what the seal and the manifests say", "another")
