"""Git LFS: the small text that stands in a clone for a large file that was not fetched."""

from scion.common.errors import ScionError

# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(start: bytes, *, where: object) -> None:
    """Refuse a file that is only a pointer to its content.

    Args:
        start: The first bytes of the file, eight or more. Eight tell it from a safetensors file,
            to which they would be a length beyond all bounds.
        where: The file.

    Raises:
        ScionError: It is a pointer.
    """
    if len(start) >= 8 and _POINTER.startswith(start[: len(_POINTER)]):
        raise ScionError(
            "the file is a Git LFS pointer; its content was never fetched",
            where=where,
            expected="the content itself",
            found=f"{_POINTER.decode()}…",
            hint="git lfs pull",
        )
