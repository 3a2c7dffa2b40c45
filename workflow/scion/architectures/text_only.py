"""What is left of a config.json where the vision tower or the MTP head is taken out."""

from collections.abc import Mapping
from typing import Any

from scion.architectures.inventory import with_mtp_layers


def text_config(
    config: Mapping[str, Any], *, text_only: bool, keep_head: bool = False
) -> dict[str, Any]:
    """config.json of what is left: without the sections of what goes.

    Args:
        config: Parsed config.json.
        text_only: False keeps the vision tower.
        keep_head: Whether the MTP head stays, and its layers are declared on.
    """
    left = {key: value for key, value in config.items() if key != "vision_config" or not text_only}
    return left if keep_head else with_mtp_layers(left, 0)
