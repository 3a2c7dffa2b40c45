"""What is left of a config.json where the vision tower and the MTP head are taken out."""

from collections.abc import Mapping
from typing import Any

from scion.architectures.inventory import with_mtp_layers


def text_config(config: Mapping[str, Any], *, text_only: bool) -> dict[str, Any]:
    """config.json of what is left: no MTP layers, and without the tower's section if that goes."""
    left = {key: value for key, value in config.items() if key != "vision_config" or not text_only}
    return with_mtp_layers(left, 0)
