"""Whether a donor is kin of the source: the base that it was fine-tuned from, or one of its line.

A head drafts from the hidden states of the model that it was trained with. Another base of equal
shapes takes it without an error, and accepts none of its drafts. Two bases that were trained apart
have nothing in common number by number, while a fine-tune hardly moves what its base looks tokens
up in and norms by. So a few kilobytes of both tell: rows of the embeddings, spread over the
vocabulary, and norms.

Of each the Pearson correlation of source and donor is taken, and the distance, |source - donor| by
|donor|; the median over the rows, and that over the norms, count. Correlation, because norms are
all near one number, and would look alike by their angle. docs/explanation/workflow.md has what was
measured, from which the bound comes.
"""

import math
import statistics
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from scion.architectures.inventory import Inventory, inventory
from scion.architectures.sound_names import SoundNames
from scion.checkpoint.safetensors_file import Tensor
from scion.checkpoint.shards import CONFIG, parse_object
from scion.checkpoint.source import Source, tensor_shards
from scion.common.errors import ScionError

SAMPLE = "kinship.json"
"""The file of a donor's artifact that holds its `WeightSample`."""
LEAST_CORRELATION = 0.8
"""With a smaller median, of rows or of norms, a donor is no kin."""
_ROWS = 16
# Unrelated numbers correlate by 1 / sqrt(count), so a median of these stays far below the bound.
_COLUMNS = 128
_NORM_NUMBERS = 256
_NORM_LAYERS = 3
_EMBEDDINGS = "embed_tokens"
_BYTES = {"BF16": 2, "F16": 2, "F32": 4}

Numbers = tuple[float, ...]
WeightSample = Mapping[str, Numbers]
"""Numbers of a checkpoint by what they are: `embed_tokens.<token>`, `norm`, `layers.3.…`."""


@dataclass(frozen=True)
class Kinship:
    """How near a source's weights are to a donor's.

    Attributes:
        rows: Rows of the embeddings that both have.
        row_correlation: Median over them; 0 without any.
        row_distance: The same of the relative distance.
        norms: Norms that both have.
        norm_correlation: Median over them; 0 without any.
        norm_distance: The same of the relative distance.
        least_correlation: What both correlations have to reach.
        trusted: Whether the configuration takes this donor, whatever they are.
    """

    rows: int
    row_correlation: float
    row_distance: float
    norms: int
    norm_correlation: float
    norm_distance: float
    least_correlation: float = LEAST_CORRELATION
    trusted: bool = False

    @property
    def is_kin(self) -> bool:
        """Whether both medians reach the bound."""
        return min(self.row_correlation, self.norm_correlation) >= self.least_correlation

    def record(self) -> dict[str, float | int | bool]:
        """As manifests have it."""
        return asdict(self)


def sample_weights(
    source: Source, location: str, *, tokens: Sequence[int] | None = None
) -> WeightSample:
    """Read rows of the embeddings and norms; of a repository a few ranges of its shards.

    Args:
        source: The checkpoint; its keys may have wrong prefixes.
        location: What errors call it.
        tokens: The rows to read; None: some, spread over the vocabulary.

    Returns:
        What it has of them: a checkpoint of the head alone has none.

    Raises:
        ScionError: config.json or a shard can't be used.
    """
    where = f"{location}/{CONFIG}"
    expected = inventory(parse_object(source.read(CONFIG) or b"", where=where), where=where)
    table, *norms = _sampled(expected)
    stored = _stored(source, location, [table, *norms], expected)
    sample = dict[str, Numbers]()
    if table in stored:
        count = stored[table].tensor.shape[0]
        for token in tokens if tokens is not None else _spread(count):
            if token < count:
                sample[f"{_EMBEDDINGS}.{token}"] = stored[table].read(_COLUMNS, row=token)
    for name in norms:
        if name in stored:
            label = name.removeprefix(expected.family.prefix).removesuffix(".weight")
            sample[label] = stored[name].read(_NORM_NUMBERS)
    return sample


def tokens_of(sample: WeightSample) -> list[int]:
    """The rows of the embeddings that a sample has."""
    parts = (label.partition(".") for label in sample)
    return [int(token) for name, _, token in parts if name == _EMBEDDINGS]


def compare_samples(source: WeightSample, donor: WeightSample, *, trusted: bool) -> Kinship:
    """How near two checkpoints are in what both samples have."""
    shared = [label for label in donor if label in source]
    rows = [label for label in shared if label.startswith(f"{_EMBEDDINGS}.")]
    norms = [label for label in shared if label not in rows]

    def medians(labels: Sequence[str]) -> tuple[int, float, float]:
        pairs = [(source[label], donor[label]) for label in labels]
        correlations = [_correlation(*pair) for pair in pairs] or [0.0]
        distances = [_distance(*pair) for pair in pairs] or [0.0]
        return len(labels), statistics.median(correlations), statistics.median(distances)

    return Kinship(*medians(rows), *medians(norms), trusted=trusted)


def require_kin(found: Kinship, *, donor: str) -> None:
    """Refuse a donor of another base, unless it is trusted by name.

    Args:
        found: What `compare_samples` gives.
        donor: Its location.

    Raises:
        ScionError: It is no kin; the error has the numbers.
    """
    if found.is_kin or found.trusted:
        return
    raise ScionError(
        "the donor is no kin of the source: by its weights it is another base",
        where=donor,
        expected=f"correlations of {found.least_correlation} or more, as a fine-tune and its base "
        "have them",
        found=f"{found.row_correlation:.3f} in {found.rows} rows of the embeddings (relative "
        f"distance {found.row_distance:.3f}), {found.norm_correlation:.3f} in {found.norms} norms "
        f"({found.norm_distance:.3f})"
        if found.rows and found.norms
        else f"{found.rows} rows of the embeddings and {found.norms} norms that both have",
        hint="set donor to the base model that the source was fine-tuned from; if it is that, "
        f"mtp.trusted_donor: {donor} takes it all the same",
    )


def _sampled(expected: Inventory) -> list[str]:
    """The tensors to look at: the embeddings, the last norm, those of a few layers."""
    prefix = expected.family.prefix
    last = max(
        int(name.removeprefix(f"{prefix}layers.").partition(".")[0])
        for name in expected.language
        if name.startswith(f"{prefix}layers.")
    )
    layers = dict.fromkeys(round(last * part / (_NORM_LAYERS - 1)) for part in range(_NORM_LAYERS))
    return [
        f"{expected.family.embedding}.weight",
        f"{prefix}norm.weight",
        *(
            f"{prefix}layers.{layer}.{norm}.weight"
            for layer in layers
            for norm in ("input_layernorm", "post_attention_layernorm")
        ),
    ]


@dataclass(frozen=True)
class _Stored:
    """A tensor where it lies; `start` is the offset of its shard's first tensor byte."""

    source: Source
    shard: str
    start: int
    tensor: Tensor

    def read(self, most: int, *, row: int = 0) -> Numbers:
        """The first numbers of a row."""
        width = _BYTES[self.tensor.dtype]
        columns = self.tensor.shape[-1]
        begin = self.start + self.tensor.begin + row * columns * width
        raw = b"".join(self.source.stream(self.shard, begin, min(most, columns) * width))
        return tuple(_decode(raw, self.tensor.dtype))


def _stored(
    source: Source, location: str, wanted: Sequence[str], expected: Inventory
) -> dict[str, _Stored]:
    """Those of the wanted tensors that a checkpoint has, as its config.json implies them."""
    shard_of = tensor_shards(source, location)
    ends = tuple(".".join(name.split(".")[-2:]) for name in wanted)
    sound = SoundNames(expected.tensors, expected.family)
    keys = {sound.of(key): key for key in shard_of if key.endswith(ends)}
    headers = source.headers(sorted({shard_of[keys[name]] for name in wanted if name in keys}))
    found = dict[str, _Stored]()
    for name in wanted:
        shard = shard_of.get(keys.get(name, ""), "")
        tensor = headers[shard].tensors.get(keys[name]) if shard else None
        if tensor and tensor.dtype in _BYTES and tensor.shape == expected.tensors[name]:
            found[name] = _Stored(source, shard, headers[shard].data_start, tensor)
    return found


def _spread(count: int) -> list[int]:
    """Tokens in the middle of equal parts of a vocabulary."""
    rows = min(_ROWS, count)
    return [(2 * part + 1) * count // (2 * rows) for part in range(rows)]


def _decode(raw: bytes, dtype: str) -> Iterator[float]:
    if dtype == "BF16":
        # A bfloat16 is the upper half of a float32.
        words = array("I", (half << 16 for half in array("H", raw)))
        return iter(array("f", words.tobytes()))
    letter = "e" if dtype == "F16" else "f"
    return (number for (number,) in struct.iter_unpack(f"<{letter}", raw))


def _correlation(source: Numbers, donor: Numbers) -> float:
    """Pearson's; 1 for the same numbers, though they be constant, and 0 where it has no meaning."""
    if source == donor:
        return 1.0 if source else 0.0
    if len(source) != len(donor) or not all(map(math.isfinite, (*source, *donor))):
        return 0.0
    try:
        return statistics.correlation(source, donor)
    except statistics.StatisticsError:
        return 0.0


def _distance(source: Numbers, donor: Numbers) -> float:
    """|source - donor| / |donor|; 0 where nothing can be said."""
    norm = math.hypot(*donor)
    if len(source) != len(donor) or not 0 < norm < math.inf:
        return 0.0
    return math.dist(source, donor) / norm
