"""Audit one part of a checkpoint once: WHAT RELEASE SOURCE [WARM_RELEASE WARM_SOURCE].

`unchanged`: every file of RELEASE is hashed, and every tensor, against RELEASE.sums.json, and every
tensor compared with SOURCE's, as `scion audit` does; the whole life of the process is to be timed.
`derived`: every quantized weight of RELEASE is derived from SOURCE, of which no page is in memory;
that is done to the small pair first, so that kernels are compiled. Prints a line of JSON.
"""

import json
import sys
import time
from pathlib import Path

from measure import drop_from_cache, resident_mb

from scion.artifacts.file_check import check_files
from scion.artifacts.file_tree import FolderTree
from scion.audit.side_by_side import SideBySide
from scion.audit.weights import RangedCheckpoint


def unchanged(release: Path, source: Path) -> None:
    """Hash and compare."""
    sums = json.loads(release.with_name(f"{release.name}.sums.json").read_bytes())
    ours, theirs = (
        RangedCheckpoint.open(str(release)).extents,
        RangedCheckpoint.open(str(source)).extents,
    )
    passing = SideBySide({name: (extent, theirs[name]) for name, extent in ours.items()})
    checked = check_files(FolderTree(release), sums, watch=passing.take)
    if checked.problems or not ours or set(passing.equal) != ours.keys():
        raise SystemExit(f"not the same: {checked.problems[:3]} {len(passing.equal)}")
    tensors = {name for digests in checked.tensors.values() for name in digests}
    print(json.dumps({"tensors": len(tensors), "peak_rss_mb": resident_mb("VmHWM")}))


def derived(release: Path, source: Path) -> dict[str, float]:
    """Derive all quantized weights; seconds, and bytes of the source's."""
    from scion.architectures.sound_names import SoundNames
    from scion.audit.derivation import Derived, derive
    from scion.audit.origin import Original
    from scion.audit.stored import stored_tensors

    original = Original.of(RangedCheckpoint.open(str(source)))
    sound = SoundNames(original.expected.storable, original.expected.family)
    modules = stored_tensors(RangedCheckpoint.open(str(release)), sound).modules
    begin = time.perf_counter()
    found = derive(modules, original.extents)
    seconds = time.perf_counter() - begin
    wrong = [
        name for name, each in found.items() if not isinstance(each, Derived) or not each.exact
    ]
    if wrong or not found:
        raise SystemExit(f"not derived: {wrong[:3]} of {len(found)}")
    weights = [original.extents[f"{name}.weight"].tensor.size for name in modules]
    return {"seconds": round(seconds, 3), "bytes": sum(weights), "modules": len(weights)}


def main() -> int:
    """Do it."""
    what, *folders = sys.argv[1:]
    release, source, *warm = map(Path, folders)
    if what == "unchanged":
        unchanged(release, source)
        return 0
    derived(*warm)
    drop_from_cache([*sorted(source.glob("*.safetensors")), *sorted(release.glob("*.safetensors"))])
    print(json.dumps({**derived(release, source), "peak_rss_mb": resident_mb("VmHWM")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
