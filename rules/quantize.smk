"""Quantize the text model to NVFP4.

Input: the artifact extract_text and the local calibration sets, or a release whose activation
scales are taken.
Output: the artifact quantize_nvfp4.
"""


rule quantize_nvfp4:
    input:
        text=manifest("extract_text"),
        calibration=[local_file(dataset) for dataset in CALIBRATION_DATASETS],
        scales=(
            local_checkpoint(CONFIG.quantization.input_scales)
            if CONFIG.quantization.input_scales
            else []
        ),
        code=stage_code("quantize_nvfp4"),
    output:
        update(manifest("quantize_nvfp4")),
    log:
        f"logs/{RELEASE}/quantize_nvfp4.log",
    benchmark:
        f"benchmarks/{RELEASE}/quantize_nvfp4.tsv"
    threads: 8
    params:
        settings=settings(quantization=CONFIG.quantization),
        environment=ROOT_ENVIRONMENT,
    shell:
        r"""
        python -m scion.stages.quantize_nvfp4 \
            --text {input.text:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            --environment {params.environment:q} \
            2>&1 | tee {log:q}
        """
