"""A configuration of a release that is not of the embedded pair."""

OWN = """\
release: own
source: {source}
donor: {donor}
launches: [{{name: production, title: Production, max_model_len: 4096}}]
serving: {{launch: production}}
measurement: {{launches: [production], prompts: {data}}}
quantization: {{calibration: {{sets: [{{dataset: {data}}}]}}}}
quality: {{chats: {data}, texts: null, base: null}}
ifeval: {{enabled: false}}
card:
  title: Own
  repository: me/Own
  summary: Mine.
  license: apache-2.0
  parent: me/parent
  base: me/base
  hardware_target: Any.
  harness_only_note: null
"""
"""With places for `source`, `donor` and `data`, to be filled by `format`."""
