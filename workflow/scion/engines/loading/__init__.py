"""What vLLM, SGLang and TensorRT-LLM make of a checkpoint when they load it, release by release.

`releases` names them, `facts` says what some of them do, `loading` answers for each module of a
checkpoint how an engine would build it: `scheme*` read the declaration as each engine does,
`families` have its layers' names, `exclusion*` match its lists, `layer_schemes` and `planning` put
that together. Nothing here starts an engine; the tests compare with their own classes.
"""
