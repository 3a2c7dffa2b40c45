"""The folder of results that people open: links into the store, and the sealed release itself.

    results/<release>/<stage>          a link to the artifact's files in the store
    results/<release>/<stage>.json     a link to its pointer
    results/<release>/release/         the sealed release, a real folder, ready to upload
    results/<release>/.pointers/       the pointers, what rules declare; their names carry digests

Links show what the last run made or found; the workflow never reads them. A pointer that a run of
several releases wrote for one of them is copied to the others that have the stage in common, so
that each folder is whole by itself.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from scion.artifacts.artifact import Artifact
from scion.artifacts.manifest import MANIFEST, find_manifest
from scion.artifacts.release_layout import RELEASE, SEALED, SIGNATURE, SIGNED
from scion.artifacts.store.known_files import KnownFiles
from scion.artifacts.store.locks import exclusive
from scion.artifacts.store.roots import register
from scion.artifacts.store.store import POINTERS, Store
from scion.common.errors import ScionError
from scion.common.files import atomic_file, copy_file, reflink_or_link, replace_link, write_json


def show(pointer: Path, artifact: Artifact, store: Store) -> None:
    """Let people see an artifact where they look for it.

    Raises:
        ScionError: Something else than a link lies there.
    """
    folder = shown_in(pointer)
    with _alone(folder, store):
        _show(pointer, artifact, store)
        register(folder, store.folder)


def show_all(folder: Path, pointers: Mapping[str, Path], store: Store) -> None:
    """Let a release's folder show what its present configuration has, and nothing else.

    Args:
        folder: `results/<release>`.
        pointers: By stage the pointer that answers the configuration, whether or not it is there.
        store: The store.
    """
    if not folder.is_dir():
        return
    with _alone(folder, store):
        for stage, pointer in pointers.items():
            manifest = find_manifest(pointer)
            if manifest is not None:
                artifact = Artifact(store.place(manifest["content"]), manifest)
                if shown_in(pointer) != folder:
                    own = folder / POINTERS / pointer.name
                    if find_manifest(own) != manifest:
                        write_json(own, manifest)
                    pointer = own
                _show(pointer, artifact, store)
                store.note_use(artifact)
                continue
            for link in (folder / stage, folder / f"{stage}.json"):
                if link.is_symlink():
                    link.unlink(missing_ok=True)
        register(folder, store.folder)


def _alone(folder: Path, store: Store) -> contextlib.AbstractContextManager[bool]:
    """Nobody else changes what a folder shows while the block lasts."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    lock = store.folder / "locks" / f"shown-{name}.lock"
    return exclusive(lock, waiting=f"waiting for another run to show its results in {folder}")


def _show(pointer: Path, artifact: Artifact, store: Store) -> None:
    folder = shown_in(pointer)
    planned = pointer.parent != folder
    name = artifact.stage if planned else pointer.stem
    if planned:
        _link(pointer, folder / f"{name}.json")
    _link(artifact.folder, folder / name)
    if artifact.stage == SEALED:
        export(artifact, folder / RELEASE, store.known)
    if artifact.stage == SIGNED:
        _place_signature(artifact, folder / RELEASE)


def _place_signature(signed: Artifact, folder: Path) -> None:
    """Put a signature beside the files that it is of, if those are there."""
    there = find_manifest(folder / MANIFEST)
    if there is not None and there["root"] == signed.manifest["made_from"]["release"]["root"]:
        with atomic_file(folder / SIGNATURE) as file:
            file.write((signed.folder / SIGNATURE).read_bytes())


def shown_in(pointer: Path) -> Path:
    """The folder whose links show what a pointer names."""
    return pointer.parent.parent if pointer.parent.name == POINTERS else pointer.parent


def _link(target: Path, link: Path) -> None:
    """Make `link` a relative symbolic link, in one step; a copy of a file where there are none."""
    wanted = os.path.relpath(target, link.parent)
    if link.is_symlink() and os.readlink(link) == wanted:
        return
    if link.is_dir() or target.is_dir():
        require_link(link)
    # Else a copy of a pointer may lie there, where there are no symbolic links.
    try:
        replace_link(wanted, link)
    except OSError as error:
        if target.is_dir():
            print(f"{link}: no link here ({error.strerror}); see {target}", file=sys.stderr)
            return
        with atomic_file(link) as file:
            file.write(target.read_bytes())


def require_link(path: Path) -> None:
    """Refuse to go on where a link into the store belongs and something else lies.

    Raises:
        ScionError: A folder lies there, as versions before the store made it, or a file.
    """
    if path.exists() and not path.is_symlink():
        raise ScionError(
            "something else lies where a link into the store belongs",
            where=path,
            expected="nothing, or a link of an earlier run",
            found="a folder, as versions before the store made it" if path.is_dir() else "a file",
            hint=f"move {path.parent} away, or remove this if nothing in it is needed: {path}",
        )


def export(artifact: Artifact, folder: Path, known: KnownFiles) -> None:
    """Put a sealed release into a real folder that can be uploaded; weights are not copied.

    A folder that holds this release already is left alone, whatever its owner did to it.
    """
    there = find_manifest(folder / MANIFEST)
    if there is not None and there["root"] == artifact.root:
        return
    fresh, earlier = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "earlier"))
    try:
        # What a run that was killed here has left.
        known.remove(fresh)
        known.remove(earlier)
        for name in artifact.files:
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            # People edit the small files of a folder that they publish.
            how = reflink_or_link if name.endswith(".safetensors") else copy_file
            known.place(artifact.folder / name, target, how)
        write_json(fresh / MANIFEST, artifact.manifest)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(earlier)
        fresh.rename(folder)
    finally:
        known.remove(fresh)
        known.remove(earlier)
