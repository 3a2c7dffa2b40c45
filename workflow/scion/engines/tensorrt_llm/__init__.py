"""TensorRT-LLM: how it loads plain decoders; read off its sources, never compared with it.

`engine` has the object that the rest of Scion asks, and the releases: a new one that behaves like
the one before it is one more word of `RELEASES`. Whether a module is quantized is decided in
`scheme` (what the declaration says) and `exclusion` (what the list covers).
"""
