"""Whether source and donor have the parts that a configuration asks for, before any work."""

from collections.abc import Mapping

from scion.checkpoint.config import Mtp
from scion.checkpoint.kinship import compare_samples, require_kin, sample_weights, tokens_of
from scion.checkpoint.places import of_key
from scion.checkpoint.preview import Preview, require_processor
from scion.checkpoint.source import tensor_shards
from scion.checkpoint.source_parts import Kept, require_parts


def check_parts(seen: Mapping[str, Preview], mtp: Mtp, *, tower: bool) -> None:
    """Hold source and donor against what the configuration says of head and vision tower.

    Of a repository on the hub that reads its index and, for the donor's kinship, the headers of a
    few shards and some kilobytes of their data.

    Args:
        seen: The checkpoints that could be looked at, by their keys of the configuration.
        mtp: Where the head comes from.
        tower: Whether the vision tower stays.

    Raises:
        ScionError: The source has a head that would be lost, or none that could be kept; or no
            tower that could be, or no processor for it; or the donor is no kin of it.
    """
    source, donor = seen.get("source"), seen.get("donor")
    if source is None:
        return
    with of_key("source"):
        names = tensor_shards(source.source, source.location)
        kept = Kept(tower, mtp.own_head)
        require_parts(kept, names, source.expected, where=source.location)
        if tower:
            require_processor(source)
    if donor is None or mtp.trusted_donor == donor.location:
        return
    with of_key("donor"):
        sample = sample_weights(donor.source, donor.location)
        own = sample_weights(source.source, source.location, tokens=tokens_of(sample))
        kinship = compare_samples(own, sample, trusted=False)
        require_kin(kinship, donor=donor.location)
