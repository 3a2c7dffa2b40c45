"""What stages must read and write at least, taken from their manifests and tensor tables.

Of files that a stage writes:

- written: those whose digest none of its inputs has; the others are links.
- hashed: the same once more. A written file is read again for its digest, since the kernel copies
  most of it and the stage never sees those bytes.

Of what it reads, where the table below names nothing else: the files of its inputs that it does not
pass on as they are, and of shards the header and each tensor; what two inputs share, once.

- fetch_source: its own files, which are the source's, to be known.
- fetch_donor: as much as it writes.
- lint_source: of shards the headers alone.
- extract_text: of shards that it can't link, the tensors that it keeps.
- graft_mtp: of the source nothing but its tensor table, where nothing of it is kept.
- verify_release: of the source, of what was quantized. The digests of the rest are in its table.
- render_card: results of stages that measure, and the copies of the card for `snakemake --report`.
- seal_release: the files but weights, which are copied into the folder that is published.

Headers of linked shards, tensor tables, and a tokenizer that is passed on and used count as nothing
here, so that a stage that reads no more than it must reads a little more than this.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from scion.artifacts.artifact import Artifact
from scion.artifacts.release_layout import TENSORS

_SHARD = ".safetensors"
_COPIES = (".md", ".svg")


@dataclass(frozen=True)
class Needs:
    """Bytes: what is read, what is written, and what of that is read again to be hashed."""

    read: int = 0
    hashed: int = 0
    written: int = 0

    def __add__(self, other: "Needs") -> "Needs":
        return Needs(
            self.read + other.read, self.hashed + other.hashed, self.written + other.written
        )


@dataclass(frozen=True)
class Made:
    """The artifacts of a release.

    Attributes:
        artifacts: By stage.
        plain: Size by SHA-256 of the plain files that stages may read.
    """

    artifacts: Mapping[str, Artifact]
    plain: Mapping[str, int]

    @classmethod
    def open(cls, release: Path, resources: Path) -> "Made":
        """What a folder of results shows, and the files below `resources`."""
        names = [path.stem for path in sorted(release.glob("*.json"))]
        artifacts = {name: Artifact.open(release / name) for name in names}
        files = [path for path in resources.rglob("*") if path.is_file()]
        plain = {sha256(path.read_bytes()).hexdigest(): path.stat().st_size for path in files}
        return cls(artifacts, plain)

    def needs(self, stage: str) -> Needs:
        """What a stage that makes its artifact must read and write."""
        artifact = self.artifacts[stage]
        there = self._digests(artifact)
        new = {name: row for name, row in artifact.files.items() if row["sha256"] not in there}
        written = _size(new)
        if stage == "fetch_source":
            return Needs(self.looked_at(stage), written, written)
        if stage == "fetch_donor":
            return Needs(self.looked_at(stage), written, written)
        if stage == "render_card":
            copies = _size({name: new[name] for name in new if name.endswith(_COPIES)})
            return Needs(self._reports(artifact) + copies, written, written + copies)
        if stage == "seal_release":
            small = {name: row for name, row in artifact.files.items() if not name.endswith(_SHARD)}
            return Needs(_size(small), written, written + _size(small))
        return Needs(sum(self._not_passed_on(artifact)), written, written)

    def looked_at(self, stage: str) -> int:
        """What must be read to know that what a stage takes of plain files is what it was."""
        artifact = self.artifacts[stage]
        if stage == "fetch_donor":
            return _size({name: artifact.files[name] for name in artifact.files if name != TENSORS})
        return sum(
            self.plain.get(entry["sha256"], 0)
            for entry in artifact.manifest["made_from"].values()
            if "file" in entry
        )

    def _inputs(self, artifact: Artifact) -> list[Artifact]:
        wanted = [entry.get("stage") for entry in artifact.manifest["made_from"].values()]
        return [self.artifacts[stage] for stage in wanted if stage is not None]

    def _digests(self, artifact: Artifact) -> set[str]:
        """The files that a stage need not write."""
        rows = [row for source in self._inputs(artifact) for row in source.files.values()]
        plain = [row for row in artifact.manifest["made_from"].values() if "file" in row]
        return {row["sha256"] for row in (*rows, *plain)}

    def _reports(self, artifact: Artifact) -> int:
        return sum(
            _size(each.files) for each in self._inputs(artifact) if TENSORS not in each.files
        )

    def _not_passed_on(self, artifact: Artifact) -> Iterator[int]:
        yield self.looked_at(artifact.stage)
        passed = {row["sha256"] for row in artifact.files.values()}
        kept = {row["sha256"] for row in artifact.tensors().values()}
        text = self.artifacts["extract_text"].tensors().values()
        quantized = {row["sha256"] for row in text}
        seen = set[str]()
        for source in self._inputs(artifact):
            if (artifact.stage, source.stage) == ("graft_mtp", "fix_keys"):
                continue
            rows = source.tensors().values()
            for name, entry in source.files.items():
                if name == TENSORS or entry["sha256"] in passed | seen:
                    continue
                if not name.endswith(_SHARD):
                    yield entry["size"]
                    continue
                tensors = [row for row in rows if row["file"] == name]
                yield min(row["range"][0] for row in tensors)
                for row in tensors:
                    if artifact.stage == "lint_source" or row["sha256"] in seen:
                        continue
                    if artifact.stage == "verify_release" and row["sha256"] not in quantized:
                        continue
                    if artifact.stage != "extract_text" or row["sha256"] in kept:
                        yield row["range"][1] - row["range"][0]
            seen |= {row["sha256"] for row in (*source.files.values(), *rows)}


def _size(files: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(row["size"] for row in files.values())
