"""Train the MTP head of the release on its own body; store its matrices in FP8 or NVFP4.

Input: the artifact graft_mtp; prompts, dialogues, and prompts of other domains.
Output: the artifacts sample_replies, what the head learns from, and heal_mtp and quantize_mtp, of
which the last that is asked for is all that the release holds but its card.
"""

SAMPLE_REPLIES = plan(
    "sample_replies",
    lambda config: (
        dict(
            reads={"release": GRAFTED},
            files={
                "prompts": config.healing.replies.prompts,
                "dialogues": config.healing.replies.dialogues or [],
                "off_domain": config.healing.replies.off_domain or [],
                "measured": config.measurement.prompts,
            },
            settings=settings(
                serving=config.serving, launch=launch(config), replies=config.healing.replies
            ),
            environment=serving_environment(config),
            threads=server_threads,
            beside=server_options(config),
        )
        if config.healing.enabled
        else None
    ),
)


rule sample_replies:
    input:
        unpack(SAMPLE_REPLIES.input),
    output:
        SAMPLE_REPLIES.pointer,
    log:
        SAMPLE_REPLIES.log,
    benchmark:
        SAMPLE_REPLIES.benchmark
    threads: SAMPLE_REPLIES.threads
    resources:
        **SAMPLE_REPLIES.resources,
    params:
        **SAMPLE_REPLIES.params,
    shell:
        r"""
        python -m scion.stages.sample_replies \
            --release {input.release:q} \
            --prompts {params.prompts:q} \
            --dialogues {params.dialogues:q} \
            --off-domain {params.off_domain:q} \
            --measured {params.measured:q} \
            --settings {params.settings:q} \
            --python {params.python:q} \
            --log-folder {params.log_folder:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


HEAL_MTP = plan(
    HEALED,
    lambda config: (
        dict(
            reads={"release": GRAFTED, "replies": "sample_replies"},
            settings=settings(training=config.healing.training),
            scheme=config.mtp.quantize,
            environment=ROOT_ENVIRONMENT,
            beside=on_gpus(heals_on_gpu(config)),
            threads=healing_threads,
        )
        if config.healing.enabled
        else None
    ),
)


rule heal_mtp:
    input:
        unpack(HEAL_MTP.input),
    output:
        HEAL_MTP.pointer,
    log:
        HEAL_MTP.log,
    benchmark:
        HEAL_MTP.benchmark
    threads: HEAL_MTP.threads
    resources:
        **HEAL_MTP.resources,
    params:
        **HEAL_MTP.params,
    shell:
        r"""
        {params.on_gpus} python -m scion.stages.heal_mtp \
            --release {input.release:q} \
            --replies {input.replies:q} \
            --settings {params.settings:q} \
            --scheme {params.scheme:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """


QUANTIZE_MTP = plan(
    HEAD_QUANTIZED,
    lambda config: quantizes_head(config)
    and dict(
        reads={"release": HEALED},
        scheme=config.mtp.quantize,
        environment=ROOT_ENVIRONMENT,
        threads=moving_threads,
    ),
)


rule quantize_mtp:
    input:
        unpack(QUANTIZE_MTP.input),
    output:
        QUANTIZE_MTP.pointer,
    log:
        QUANTIZE_MTP.log,
    benchmark:
        QUANTIZE_MTP.benchmark
    threads: QUANTIZE_MTP.threads
    resources:
        **QUANTIZE_MTP.resources,
    params:
        **QUANTIZE_MTP.params,
    shell:
        r"""
        python -m scion.stages.quantize_mtp \
            --release {input.release:q} \
            --scheme {params.scheme:q} \
            --output {output:q} \
            --store {params.store:q} \
            --plan {params.plan:q} \
            --environment {params.environment:q} \
            --progress {params.progress:q} \
            2>&1 | tee -i {log:q}
        """
