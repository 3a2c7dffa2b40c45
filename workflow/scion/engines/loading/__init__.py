"""What engines do with a checkpoint when they load it, in terms that all share; it names none.

`engine.Engine` is what the code here asks of one. `planning` decides how a release builds a layer:
it asks the engine's `read` for the declaration (`scheme`), the model class for names and fused
layers (`class_build`), the engine's matchers for its exclusion list (`exclusion`), and looks up
the algorithm where a declaration names several (`layer_schemes`). The engines' folders lie above,
`scion.engines.registry` above these. Nothing here starts an engine; the tests compare with their
own classes.
"""
