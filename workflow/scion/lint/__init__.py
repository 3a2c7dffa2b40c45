"""`scion lint`: what is wrong with a checkpoint, seen in its configs, index and headers.

    source = open_source("path/or/hf://owner/name@revision")   # a folder, or the hub by ranges
    subject = Subject.open(source, engines=DEFAULT_ENGINES)    # what the rules look at
    results = run(subject, select_rules(RULES))                # rules: data and one function each

Engines are judged by `scion.engines.loading`, which models how vLLM, SGLang and TensorRT-LLM read a
checkpoint, version by version; the tensors that a config.json implies come from
`scion.architectures.inventory`. Reading a checkpoint needs no torch and no tensor data, but for
`--deep`.
"""
