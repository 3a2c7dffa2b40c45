"""What a sealed release says of itself in the forms that others' tools read, and its signature.

May import: what `scion.report` may.
"""
