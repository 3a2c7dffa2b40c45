"""Quantize the text model to NVFP4, and write it in the spelling of the release.

Input: the artifact extract_text and the calibration sets, local ones or of the hub, or a release
whose activation scales are taken.
Output: the artifacts quantize_nvfp4, in ModelOpt's spelling, and respell, in another.
"""

QUANTIZE_NVFP4 = plan(
    "quantize_nvfp4",
    lambda config: dict(
        reads={"text": "extract_text"},
        files={"calibration": calibration_files(config) if config.quantization.calibrated else []},
        locked=calibration_sets(config) if config.quantization.calibrated else [],
        local=input_scales(config),
        settings=settings(quantization=config.quantization),
        beside=on_gpus(config.quantization.device == "cuda"),
        environment=ROOT_ENVIRONMENT,
        threads=quantizing_threads,
    ),
)


rule quantize_nvfp4:
    input:
        unpack(QUANTIZE_NVFP4.input),
    output:
        QUANTIZE_NVFP4.pointer,
    log:
        QUANTIZE_NVFP4.log,
    benchmark:
        QUANTIZE_NVFP4.benchmark
    priority: QUANTIZING
    threads: QUANTIZE_NVFP4.threads
    resources:
        **QUANTIZE_NVFP4.resources,
    params:
        **QUANTIZE_NVFP4.params,
    shell:
        r"""
        {params.on_gpus} python -m scion.stages.quantize_nvfp4 \
            --text {input.text:q} \
            --settings {params.settings:q} \
            --lock {params.lock:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


RESPELL = plan(
    "respell",
    lambda config: quantized(config) == "respell"
    and dict(
        reads={"quantized": "quantize_nvfp4"},
        spelling=config.spelling,
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
    ),
)


rule respell:
    input:
        unpack(RESPELL.input),
    output:
        RESPELL.pointer,
    log:
        RESPELL.log,
    benchmark:
        RESPELL.benchmark
    threads: RESPELL.threads
    resources:
        **RESPELL.resources,
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
