"""Convert a checkpoint to NVFP4 once, with activation scales that are given; tell what it took.

    python bench/support/convert_once.py SOURCE OUT SCALES --warm-up TINY

SOURCE and TINY are artifacts, as `bench/weights_only.py` makes them; SCALES has an activation scale
of each module of both. TINY is converted first, so that kernels are compiled; then no page of
SOURCE is left in memory. Timed is the stage, from opening the source to the finished, hashed
artifact, and until the disk has its bytes. Prints one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from measure import drop_from_cache, resident_mb

from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.quantization.config import Quantization
from scion.stages.quantize_nvfp4 import quantize_nvfp4


def convert(source: Path, output: Path, scales: Path) -> None:
    """The stage, and the disk behind it."""
    settings = Quantization(recipe="nvfp4_default", input_scales=str(scales), device="cpu")
    text = Artifact.open(source)
    quantize_nvfp4(
        text=text,
        output=Output.at(output),
        settings=settings,
        environment="sha256:benchmark",
        watch=None,
    )
    subprocess.run(["sync", "--file-system", str(output)], check=True)


def main() -> int:
    """Parse arguments, convert, and print one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("scales", type=Path)
    parser.add_argument("--warm-up", type=Path, required=True, help="a checkpoint of few layers")
    args = parser.parse_args()
    convert(args.warm_up, args.out / "warm", args.scales)
    # Here, not before this process starts: a host takes free memory back within seconds, and asking
    # for it anew would be timed, for the peers not.
    drop_from_cache(sorted(args.source.glob("*.safetensors")))
    os.sync()
    begin = time.perf_counter()
    convert(args.source, args.out / "artifact", args.scales)
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": round(seconds, 3), "peak_rss_mb": resident_mb("VmHWM")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
