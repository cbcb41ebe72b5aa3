"""The images of docs/gallery.md. Held-back prompts, the first of each kind, whether right or wrong."""

import textwrap

from PIL import Image

from blip3o_core.tiny.edit_evaluation import Settings as EditSettings
from blip3o_core.tiny.edit_evaluation import make_edits
from blip3o_core.tiny.evaluation import edition_of, square_prompts
from blip3o_core.tiny.judge.judge import judge_edit, judge_image
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.spec import spec_of
from blip3o_core.tiny.scenes.world import SQUARE
from tools.images.maker import Maker
from tools.images.page import enlarged, sheet

SIDE = 200  # px
PER_ROW = 4
PROMPT = "a red circle left of a blue star on a yellow background"


def text_to_image(maker: Maker) -> Image.Image:
    """Held-back prompts, the first of each category."""
    cells = []
    for index, prompt in enumerate(square_prompts(maker.pipeline.checkpoint)):
        image = maker.image(maker.tokens(prompt.text, index), index)
        cells.append((enlarged(image, SIDE), _caption(prompt.text, judge_image(image, spec_of(prompt.scene)))))
    return sheet(_rows(cells))


def edits(maker: Maker) -> Image.Image:
    """Edits of `blip3o evaluate tiny-edits`, the first of each kind with square images: before and after."""
    checkpoint, cells = maker.pipeline.checkpoint, []
    first: dict[str, tuple] = {}
    for edit, words in make_edits(EditSettings(edition=edition_of(checkpoint))):
        if edit.target.canvas == SQUARE:
            first.setdefault(edit.kind, (edit, words))
    for index, (edit, words) in enumerate(first.values()):
        before = [rasterize(scene, checkpoint.trained_side) for scene in edit.sources]
        references = maker.references(*before)
        after = maker.image(maker.tokens(words, index, references), index, references=references)
        images = [*before, after]
        row = Image.new("RGB", (len(images) * (SIDE + 4) - 4, SIDE), "white")
        for place, image in enumerate(images):
            row.paste(enlarged(image, SIDE), (place * (SIDE + 4), 0))
        cells.append((row, _caption(words, judge_edit(after, edit), 48)))
    return sheet(_rows(cells, 2))


def seeds(maker: Maker) -> Image.Image:
    """Four token seeds, and under each the same tokens with another noise seed."""
    tokens = [maker.tokens(PROMPT, seed) for seed in range(1, PER_ROW + 1)]
    written = [(enlarged(maker.as_mosaic(each), SIDE, blocks=True), f"seed {each.seeds[0]}: tokens") for each in tokens]
    rows = [written]
    for noise in (1, 2):
        rows.append([(enlarged(maker.image(each, noise), SIDE), f"noise_seed {noise}") for each in tokens])
    return sheet(rows)


def steps(maker: Maker) -> Image.Image:
    """The same tokens and noise in more and more steps."""
    tokens = maker.tokens(PROMPT, 1)
    counts = (1, 2, 4, 20)
    return sheet(
        [
            [
                (enlarged(maker.image(tokens, 1, count), SIDE), "1 step" if count == 1 else f"{count} steps")
                for count in counts
            ]
        ]
    )


GALLERY = {"text_to_image": text_to_image, "edits": edits, "seeds": seeds, "steps": steps}


def _rows(cells: list, length: int = PER_ROW) -> list[list]:
    return [cells[first : first + length] for first in range(0, len(cells), length)]


def _caption(words: str, verdict, letters: int = 24) -> str:
    """The words in two lines, and the judge's verdict."""
    lines = textwrap.wrap(words, letters)
    return "\n".join([*lines, *[""] * (2 - len(lines)), "right" if verdict.strict else f"wrong: {verdict.reasons[0]}"])
