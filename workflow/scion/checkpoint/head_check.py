"""Whether source and donor can give the head that a configuration asks for, before any work."""

from collections.abc import Mapping

from scion.checkpoint.config import Mtp
from scion.checkpoint.kinship import compare_samples, require_kin, sample_weights, tokens_of
from scion.checkpoint.own_head import own_head, require_own_head
from scion.checkpoint.places import of_key
from scion.checkpoint.preview import Preview
from scion.checkpoint.source import tensor_shards


def check_head(seen: Mapping[str, Preview], mtp: Mtp) -> None:
    """Hold source and donor against what the configuration says of the head.

    Of a repository on the hub that reads its index and, for the donor's kinship, the headers of a
    few shards and some kilobytes of their data.

    Args:
        seen: The checkpoints that could be looked at, by their keys of the configuration.
        mtp: Where the head comes from.

    Raises:
        ScionError: The source has a head that would be lost, or none that could be kept; or the
            donor is no kin of it.
    """
    source, donor = seen.get("source"), seen.get("donor")
    if source is None:
        return
    with of_key("source"):
        names = tensor_shards(source.source, source.location)
        found = own_head(names, source.expected)
        require_own_head(mtp.own_head, found, source.expected, where=source.location)
    if donor is None or mtp.trusted_donor == donor.location:
        return
    with of_key("donor"):
        sample = sample_weights(donor.source, donor.location)
        own = sample_weights(source.source, source.location, tokens=tokens_of(sample))
        kinship = compare_samples(own, sample, trusted=False)
        require_kin(kinship, donor=donor.location)
