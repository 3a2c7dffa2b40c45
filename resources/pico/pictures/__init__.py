"""Seeded pictures with questions: what pico-vision learns to see, and what it is judged on.

- `scene`: what a picture shows: one to four shapes, each in a cell of its own, on a plain ground.
- `painting`: a scene as pixels, and pixels as a PNG file.
- `questions`: which colour, which shape, how many: questions about a scene and their answers.

Needs numpy, not torch. The same (data set, seed, index) gives the same picture everywhere. Training
and held-out pictures are drawn from seeds of their own: positions, sizes, shades and combinations
of figures are new, shapes and colours are not. (Pairs of shape and colour were held out at first: a
tower this small learns that they don't occur.)
"""
