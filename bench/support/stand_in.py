"""Stand in for quantize_nvfp4: a checkpoint that declares NVFP4, its shards linked as they are.

graft_mtp reads headers and tables and links files, so it costs the same whatever the bytes mean.
TEXT, the artifact of extract_text, to TARGET.
"""

import sys
from pathlib import Path

from scion.artifacts.artifact import Artifact, Draft
from scion.artifacts.making import Output, remake
from scion.checkpoint.shards import read_json
from scion.common.files import write_json
from scion.formats.modelopt import HF_QUANT_CONFIG, hf_quant_config, quantization_config


def main() -> int:
    """Make the artifact."""
    text, target = Artifact.open(Path(sys.argv[1])), Path(sys.argv[2])
    config = read_json(text.folder / "config.json")
    scheme = quantization_config(["lm_head", "mtp*"], producer={"name": "none", "version": "0"})

    def build(draft: Draft) -> None:
        draft.link_all(text, but={"config.json"})
        write_json(draft.folder / "config.json", {**config, "quantization_config": scheme})
        write_json(draft.folder / HF_QUANT_CONFIG, hf_quant_config(scheme))
        draft.facts |= {"recipe": {"name": "none"}, "scale_checksums": {}}

    remake(
        Output.at(target),
        stage="quantize_nvfp4",
        inputs={"text": text},
        settings={},
        environment="sha256:benchmark",
        build=build,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
