"""What every package needs and none owns: errors, files, digests, bounded JSON, text, devices.

Begin with:

- `scion.common.errors.ScionError`: the one error for bad input; it says what was expected, what was
  found, where, and what to do next.
- `scion.common.files`: files that nobody ever sees half of, hard links, copies in the kernel.
- `scion.common.digest`: SHA-256 of files, of ranges of them, and of JSON values.
- `scion.common.progress`: how far work is, told to whoever runs it.
- `scion.common.section.Section`: the base of every part of the configuration.

May import: nothing of Scion.

To extend: only what several packages use and what knows nothing of checkpoints belongs here.
"""
