"""The configuration of a release, and of several at once.

Begin with:

- `release.Config`: one release, as a typed model that composes the section of each package.
- `families.read_configs`: the releases of a file, be it of one or of a family.
- `simulation.comparison.simulate`: what a run of them will take of a cluster.

May import: common, architectures, formats, checkpoint, artifacts, engines, lint, quantization,
evaluation, healing, report, stages, audit.

To extend: a key stands in the `config.py` of the package that reads it; a new section is a field of
`release.Config` more.
"""

from scion.config.families import load_configs, read_config, read_configs
from scion.config.release import (
    Config,
    check_sources,
    default_yaml,
    lacking_environment,
    load_config,
    read_values,
)

__all__ = [
    "Config",
    "check_sources",
    "default_yaml",
    "lacking_environment",
    "load_config",
    "load_configs",
    "read_config",
    "read_configs",
    "read_values",
]
