"""Seeded dialogues for the pico pair: all text comes from the small grammars in this package.

- `writer`: a random source that speaks: choices in a template, invented names, held-out values.
- `tools`: two dozen tools: schemas, ways to ask for them, results, ways to report those.
- `agent`: conversations with tools: single, parallel and consecutive calls, refusals, synthesis.
- `chat`: conversations without: numbers, stories, explanations.
- `corpus`: which mix makes which data set, and how a conversation becomes text.

Nothing here needs torch. The same (data set, seed, index) gives the same conversation everywhere.
"""
