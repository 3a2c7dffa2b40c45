"""SGLang: how it loads a checkpoint, and its flags.

`engine` has the object that the rest of Scion asks, and the releases: a new one that behaves like
the one before it is one more word of `RELEASES`. Whether a module is quantized is decided in
`scheme` (what the declaration says), `class_builds` (what the model class calls and fuses),
`exclusion` (what the list covers) and `engine` (what is never quantized, which algorithms a layer
of a mixed declaration may have).
"""
