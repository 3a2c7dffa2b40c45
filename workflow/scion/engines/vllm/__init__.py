"""vLLM: how it loads a checkpoint, how it is started and asked, what memory it takes.

`engine` has the object that the rest of Scion asks, and the releases: a new one that behaves like
the one before it is one more word of `RELEASES`. Whether a module is quantized is decided in
`scheme` (what the declaration says), `class_builds` (what the model class calls and fuses),
`exclusion` (what the list covers) and `engine` (what is never quantized, which algorithms a layer
of a mixed declaration may have); each names the releases that differ, as `affects("vllm>=0.24",
…)`. `flags` writes a launch, `server`, `log`, `counters` and `bench` run one, `memory*` and
`cache_layout` say what it will take of a GPU.
"""
