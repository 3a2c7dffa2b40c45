"""The pictures that pico-vision is trained and judged on, and how its training shows them to it."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image
from transformers import Qwen3_5Config
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from conversion import Pico
from pictures.painting import paint, png
from pictures.questions import SPLITS, as_row, question
from pictures.scene import COLOURS, KINDS, SHAPES, SIDE, Figure, Scene
from training.model import MtpLayer, build_body
from training.pictures import GRID, IMAGE_TOKEN, TOKENS, patches
from training.vision import SeeingPico, positions, vision_config, vision_template

CPU = torch.device("cpu")
COUNT = 300


def pixels_of(url: str) -> np.ndarray:
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


def test_the_generator_makes_the_committed_questions(pico: Pico) -> None:
    rows = [json.loads(line) for line in pico.pictures.open()]
    assert len(rows) == COUNT
    for index, row in enumerate(rows):
        made = json.loads(json.dumps(as_row(0, "pictures-heldout", index)))
        kept, drawn = (
            pixels_of(each["messages"][0]["content"].pop(0)["image_url"]["url"])
            for each in (row, made)
        )
        assert row == made
        # zlib may compress otherwise elsewhere; a reader sees the pixels.
        assert np.array_equal(kept, drawn)


def test_held_out_pictures_are_others_than_those_of_training() -> None:
    trained = {question(0, "pictures", index).scene for index in range(20 * COUNT)}
    assert trained.isdisjoint(question(0, "pictures-heldout", i).scene for i in range(COUNT))
    # Each kind of figure is trained.
    assert {figure.kind for scene in trained for figure in scene.figures} == set(KINDS)


def meant(figures: tuple[Figure, ...], text: str) -> list[Figure]:
    """The figures of a question's shape and colour, where it names any."""
    words = text.rstrip("?.").replace("crosses", "cross").split()
    words = [word if word == "cross" else word.removesuffix("s") for word in words]
    shapes, colours = (set(words) & set(names) for names in (SHAPES, COLOURS))
    return [
        figure
        for figure in figures
        if (not shapes or figure.shape in shapes) and (not colours or figure.colour in colours)
    ]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_true_and_the_only_ones(split: str) -> None:
    for index in range(COUNT):
        asked = question(3, split, index)
        figures = asked.scene.figures
        found = meant(figures, asked.text)
        if asked.topic == "list":
            key = "colour" if "colours" in asked.text else "shape"
            true = ", ".join(getattr(figure, key) for figure in figures)
        elif asked.topic == "count":
            true = str(len(found))
        else:
            (figure,) = found
            true = figure.colour if asked.topic == "colour" else figure.shape
        assert asked.answer == f"{true}."
        assert true in asked.right
        assert true not in asked.wrong


def test_figures_neither_touch_nor_reach_the_edge() -> None:
    for index in range(60):
        scene = question(1, "pictures", index).scene
        covered = np.zeros((SIDE, SIDE), int)
        for figure in scene.figures:
            covered += (paint(Scene(scene.ground, (figure,))) != scene.ground).any(-1)
        assert covered.max() == 1
        assert not covered[[0, -1]].any()
        assert not covered[:, [0, -1]].any()


def test_a_png_holds_the_pixels() -> None:
    pixels = paint(question(2, "pictures", 0).scene)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)


def test_patches_are_what_the_image_processor_makes(pico: Pico) -> None:
    settings = json.loads((pico.base / "preprocessor_config.json").read_text())
    kept = {key: value for key, value in settings.items() if not key.endswith(("_type", "_class"))}
    pictures = [paint(question(0, "pictures", index).scene) for index in range(3)]
    made = Qwen2VLImageProcessorPil(**kept)(
        list(map(Image.fromarray, pictures)), return_tensors="pt"
    )
    assert made["image_grid_thw"].tolist() == [[1, GRID, GRID]] * 3
    assert torch.equal(made["pixel_values"], patches(np.stack(pictures), CPU))


def test_training_sees_as_transformers_does(pico: Pico) -> None:
    config = Qwen3_5Config(**vision_config(pico.folder / "assets"))
    model = build_body(config, seed=0)
    shown = patches(np.stack([paint(question(0, "pictures", i).scene) for i in range(2)]), CPU)
    grid = torch.tensor([[1, GRID, GRID]] * 2)
    image = [6, *[IMAGE_TOKEN] * TOKENS, 7]
    ids = torch.tensor([[1, 9, *image, 20, 21], [*image, 1, 9, 20, 21]])
    told = {"pixel_values": shown, "image_grid_thw": grid, "mm_token_type_ids": (ids == 4).int()}
    with torch.no_grad():
        expected = model(input_ids=ids, **told).logits
        get_rope_index: Any = model.model.get_rope_index
        there, _ = get_rope_index(ids, told["mm_token_type_ids"], grid)
        assert torch.equal(positions(ids), there)
        pico_seeing = SeeingPico(model, MtpLayer(config), CPU)
        # The same in bf16, as the training computes.
        torch.testing.assert_close(pico_seeing.see(ids, shown).float(), expected, rtol=0, atol=0.05)


def rendered(template: str, messages: Any) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True)


def test_the_template_adds_images_and_nothing_else(pico: Pico) -> None:
    template, before = vision_template(pico.folder / "assets"), pico.agent / "chat_template.jinja"
    text = {"type": "text", "text": "What colour is it?"}
    picture = {"type": "image_url", "image_url": {"url": "data:…"}}
    for content in ("Hello.", [text], [text, text]):
        told = [{"role": "user", "content": content}]
        assert rendered(template, told) == rendered(before.read_text(), told)
    told = [{"role": "user", "content": [picture, text]}]
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>What colour" in rendered(
        template, told
    )


def test_a_template_that_changed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ValueError, match="does not join"):
        vision_template(tmp_path)
