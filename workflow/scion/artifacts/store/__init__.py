"""The store: immutable artifacts under their content's digest, and records of what made them.

    scion-store.json            the format of this folder
    artifacts/<content>/        an artifact's files, read-only: added and removed, never changed
    records/<recipe>.json       the manifest of what a recipe gave; it names the content
    work/<recipe>/              what a stage has half made
    known/<inode>.json          digests of files that need not be read again
    sources/                    what plans call the files of local checkpoints
    damaged/                    entries that were found to be other than their digest
    roots/, leases/, locks/     what must not be removed, and who is at work
    trash-<random>/             what a prune is deleting

A *recipe* is the digest of a request: inputs by content, settings, meaning of the code, locked
environment. A *content* is the digest of a table of files: equal bytes have one name, whoever made
them.

Begin with `scion.artifacts.store.store.Store`. The other modules of this package: `known_files`,
whose digests are trusted while inode, size and times of a file stay the same; `locks`, which die
with their process; `roots`, folders of results; `sources`; `remote`, stores elsewhere, and
`objects`, what they are made of. For `scion store` there are `survey`, which looks, `listing`,
which tells, `audit` (`verify`) and `housekeeping` (`prune`).

May import: common, checkpoint, and the modules of `scion.artifacts` that describe one artifact.

To extend: a new kind of file gets a folder of its own here, a line above and one in docs/store.md.
"""
