"""Donors that are kin of a source, and donors of another base with the same shapes."""

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoints import edit_json, edit_tensor, tiny_config, write_checkpoint
from conversion import ENVIRONMENT, Conversion, Pico
from scion.artifacts.artifact import Artifact
from scion.artifacts.making import Output
from scion.checkpoint.folder_source import FolderSource
from scion.checkpoint.kinship import (
    LEAST_CORRELATION,
    Kinship,
    compare_samples,
    sample_weights,
    tokens_of,
)
from scion.checkpoint.shards import INDEX, Checkpoint
from scion.common.errors import ScionError
from scion.config import Config, check_sources
from scion.stages.fetch_donor import fetch_donor
from scion.stages.graft_mtp import graft_mtp


def kinship(source: Path, donor: Path) -> Kinship:
    sample = sample_weights(FolderSource(donor), str(donor))
    own = sample_weights(FolderSource(source), str(source), tokens=tokens_of(sample))
    return compare_samples(own, sample, trusted=False)


def bfloat16(numbers: list[float]) -> bytes:
    return b"".join(struct.pack("<f", number)[2:] for number in numbers)


def redrawn(folder: Path, wanted: Callable[[str], bool], *, seed: int, mean: float = 0.0) -> None:
    """Draw the numbers of tensors anew, as the initialization of another training does."""
    checkpoint, chance = Checkpoint.open(folder), random.Random(seed)
    for name in filter(wanted, checkpoint.shard_of):

        def draw(data: bytearray) -> None:
            numbers = [chance.gauss(mean, 0.02) for _ in range(len(data) // 2)]
            data[:] = bfloat16(numbers)

        edit_tensor(folder, name, draw)


def copied(source: Path, folder: Path) -> Path:
    """The files themselves, to be edited."""
    folder.mkdir(parents=True)
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def other_base(pico: Pico, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the pair's shapes whose embeddings and norms are others; its norms are near 1."""
    folder = copied(pico.base, tmp_path_factory.mktemp("bases") / "other")
    redrawn(folder, lambda name: name.endswith("embed_tokens.weight"), seed=1)
    redrawn(folder, lambda name: name.endswith("norm.weight"), seed=2, mean=1.0)
    return folder


def test_the_pair_is_kin(pico: Pico) -> None:
    found = kinship(pico.agent, pico.base)
    # LoRA moves neither embeddings nor norms.
    assert (found.row_correlation, found.norm_correlation) == (1.0, 1.0)
    assert (found.row_distance, found.norm_distance) == (0.0, 0.0)
    assert (found.rows, found.norms) == (16, 7)


def test_another_base_is_far_below_the_bound(pico: Pico, other_base: Path) -> None:
    found = kinship(pico.agent, other_base)
    assert not found.is_kin
    assert abs(found.row_correlation) < 0.2 < LEAST_CORRELATION
    # Though all of them are near one number.
    assert abs(found.norm_correlation) < 0.2


def test_a_few_kilobytes_are_read(pico: Pico, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[int]()
    stream = FolderSource.stream

    def noted(self: FolderSource, name: str, begin: int, size: int) -> object:
        read.append(size)
        return stream(self, name, begin, size)

    monkeypatch.setattr(FolderSource, "stream", noted)
    sample_weights(FolderSource(pico.base), "x")
    assert sum(read) <= 8 << 10


def test_rows_that_a_smaller_vocabulary_lacks_are_left_out(tmp_path: Path) -> None:
    large = write_checkpoint(tmp_path / "large", tiny_config(vocab_size=96))
    small = write_checkpoint(tmp_path / "small", tiny_config(vocab_size=48))
    tokens = tokens_of(sample_weights(FolderSource(large), "large"))
    own = sample_weights(FolderSource(small), "small", tokens=tokens)
    assert tokens_of(own) == [token for token in tokens if token < 48]
    assert 0 < len(tokens_of(own)) < len(tokens)


def graft(conversion: Conversion, donor: Artifact, tmp_path: Path, **options: Any) -> Artifact:
    return graft_mtp(
        quantized=conversion.quantize_nvfp4,
        fixed=conversion.fix_keys,
        donor=donor,
        output=Output.at(tmp_path / "release"),
        environment=ENVIRONMENT,
        **options,
    )


def test_the_numbers_stand_in_the_releases_facts(conversion: Conversion) -> None:
    recorded = conversion.graft_mtp.facts["kinship"]
    assert recorded["row_correlation"] == recorded["norm_correlation"] == 1.0
    assert (recorded["least_correlation"], recorded["trusted"]) == (LEAST_CORRELATION, False)


def test_another_base_is_not_grafted_unless_it_is_trusted_by_name(
    conversion: Conversion, other_base: Path, tmp_path: Path
) -> None:
    donor = fetch_donor(
        location=str(other_base), output=Output.at(tmp_path / "donor"), environment=ENVIRONMENT
    )
    for trusted in ({}, {"trusted_donor": "another"}):
        with pytest.raises(ScionError, match="the donor is no kin of the source") as caught:
            graft(conversion, donor, tmp_path, **trusted)
        assert f"mtp.trusted_donor: {other_base}" in caught.value.hint
        assert "16 rows of the embeddings" in str(caught.value.found)
        assert not (tmp_path / "release").exists()
    taken = graft(conversion, donor, tmp_path, trusted_donor=str(other_base))
    assert taken.facts["kinship"]["trusted"] is True
    assert taken.facts["kinship"]["row_correlation"] < LEAST_CORRELATION


def test_a_donor_of_the_head_alone_has_nothing_to_compare(
    conversion: Conversion, pico: Pico, tmp_path: Path
) -> None:
    folder = copied(pico.base, tmp_path / "head")
    edit_json(
        folder / INDEX,
        lambda index: index.update(
            weight_map={
                name: shard
                for name, shard in index["weight_map"].items()
                if name.startswith("mtp.")
            }
        ),
    )
    donor = fetch_donor(
        location=str(folder), output=Output.at(tmp_path / "donor"), environment=ENVIRONMENT
    )
    with pytest.raises(ScionError, match="no kin") as caught:
        graft(conversion, donor, tmp_path)
    assert caught.value.found == "0 rows of the embeddings and 0 norms that both have"
    assert graft(conversion, donor, tmp_path, trusted_donor=str(folder)).facts["mtp_tensors"] == 15


def test_another_base_is_refused_by_the_plan(
    pico: Pico, other_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pico.folder.parents[1])
    config = Config(donor=str(other_base))
    with pytest.raises(ScionError, match="donor: the donor is no kin of the source"):
        check_sources(config, where="x", hub=False)
    trusted = Config.model_validate(
        {"donor": str(other_base), "mtp": {"trusted_donor": str(other_base)}}
    )
    assert check_sources(trusted, where="x", hub=False) == []
