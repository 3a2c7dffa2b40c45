"""Seeded pictures with questions: what pico-vision learns to see, and what it is judged on.

- `scene`: what a picture shows: one to four shapes that don't touch, on a grainy ground.
- `painting`: a scene as pixels, and pixels as a PNG file.
- `questions`: which colour, which shape, how many: questions about a scene and their answers.

Needs numpy, not torch. The same (data set, seed, index) gives the same picture everywhere. One pair
of shape and colour in six is held out: no training picture shows such a shape, every held-out
question is about one.
"""
