"""Image tokens written again in a part of the image."""

import torch

from blip3o_core.tokens.marks import marks_text

from . import parts
from .parts import NOTE, Sample, Subgraph

GRID = 8  # of the bundled model


def brush() -> Sample:
    sample = Sample("BLIP3o-9-Brush-Tokens", note_height=430)
    loader = parts.load(sample)
    chain = parts.add_chain(sample, loader, parts.TO_BRUSH)
    before, shown = parts.show(sample, chain.decode)
    right = torch.zeros(GRID, GRID, dtype=torch.bool)
    right[:, GRID // 2 :] = True
    again = sample.add(
        "BLIP3oResampleTokens", lm=[loader, 0], tokens=[chain.generator, 0], marks=marks_text(right), seed=1,
        prompt=parts.BRUSHED, **parts.SAMPLING,
    )  # fmt: skip
    rendered = parts.add_render(sample, loader, again)
    sample.subgraphs["Render it as it was"] = Subgraph([*chain.ids[1:], before], [], ["to see"])
    sample.note = (
        (
            "## Brush the part to change\n\nPress **Run**. The canvas of Re-sample Tokens shows the new image. Its "
            "marked cells, here the right half, are written again; all others keep their tokens. Drag to mark, drag "
            "with the right button to unmark, and press Run.\n\nAnother **seed** on Re-sample Tokens is another try. "
            "Its **prompt** says what the image shows afterwards; empty keeps the first one. New tokens see what is "
            "above them and to their left.\n\n"
        )
        + parts.TINY
        + parts.PHOTOGRAPHS
    )
    conditioner, empty, sampler, decode = rendered
    after = parts.save(sample, decode)
    sample.column(330, note=[NOTE], **{"Model and size": [loader, empty]})
    sample.column(350, **{"1. Write image tokens": [chain.generator]})
    sample.column(380, **{"2. Brush and write again": [again]})
    sample.column(280, **{"3. Render": ["Render it as it was", conditioner, sampler, decode]})
    sample.column(330, Before=[shown], After=after)
    sample.heights |= {sampler: 430, shown: 260, after[-1]: 460}
    sample.room |= {chain.generator: 800, "Render it as it was": 124, shown: 270}
    sample.compared = shown
    sample.inputs = [(chain.generator, "prompt"), (again, "prompt"), (again, "seed"), (again, "marks")]
    return sample
