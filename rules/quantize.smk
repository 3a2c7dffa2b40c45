"""Quantize the text model to NVFP4, and write it in the spelling of the release.

Input: the artifact extract_text and the local calibration sets, or a release whose activation
scales are taken.
Output: the artifacts quantize_nvfp4, in ModelOpt's spelling, and respell, in another.
"""

from scion.formats.spellings import DEFAULT_SPELLING

SCALES = CONFIG.quantization.input_scales
CALIBRATED = CONFIG.quantization.calibrated
QUANTIZE_NVFP4 = plan(
    "quantize_nvfp4",
    reads={"text": "extract_text"},
    files={"calibration": [*map(local_file, CALIBRATION_DATASETS)] if CALIBRATED else []},
    local=local_checkpoint(SCALES, usable_files) if SCALES else [],
    settings=settings(quantization=CONFIG.quantization),
    environment=ROOT_ENVIRONMENT,
)


rule quantize_nvfp4:
    input:
        **QUANTIZE_NVFP4.input,
    output:
        QUANTIZE_NVFP4.pointer,
    log:
        QUANTIZE_NVFP4.log,
    benchmark:
        QUANTIZE_NVFP4.benchmark
    threads: 8
    params:
        **QUANTIZE_NVFP4.params,
    shell:
        r"""
        python -m scion.stages.quantize_nvfp4 \
            --text {input.text:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


RESPELL = plan(
    "respell",
    reads={"quantized": "quantize_nvfp4"},
    spelling=CONFIG.spelling,
    environment=ROOT_ENVIRONMENT,
)
# The stage that makes the release's quantized checkpoint.
QUANTIZED = "quantize_nvfp4" if CONFIG.spelling == DEFAULT_SPELLING.name else "respell"


rule respell:
    input:
        **RESPELL.input,
    output:
        RESPELL.pointer,
    log:
        RESPELL.log,
    benchmark:
        RESPELL.benchmark
    threads: 8
    params:
        **RESPELL.params,
    shell:
        r"""
        python -m scion.stages.respell \
            --quantized {input.quantized:q} \
            --spelling {params.spelling:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
