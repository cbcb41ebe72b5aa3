"""One node for everything, and the nodes of this pack among ComfyUI's own."""

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.tiny.evaluation import GUIDANCE, STEPS

from .parts import (
    EDIT,
    EDITS,
    NOTE,
    PHOTOGRAPHS,
    SAMPLER,
    TINY,
    Sample,
    Subgraph,
    add_chain,
    edit_columns,
    encode,
    enlarge,
    load,
    save,
    show,
)

# What the bundled model gets right with every seed that was tried; tests/host/test_samples_are_right.py judges it.
SURFACE = "a striped red square right of a blue star"
CHANGED = "make the background green"
LEFT, RIGHT = "a red circle", "a blue star"
FOLDER = "a red circle left of a blue square\na green star\na purple triangle"
SECOND_DENOISE = 0.5


def one_click() -> Sample:
    sample = Sample("BLIP3o-14-One-Click", note_height=360)
    shared = {"checkpoint": NAME, "seed": 1, "noise_seed": 1, "steps": STEPS, "guidance": GUIDANCE}
    made = sample.add("BLIP3oTextToImage", **shared, prompt=SURFACE, width=0, height=0, batch_size=1)
    larger, shown = show(sample, made)
    edited = sample.add("BLIP3oImageEdit", **shared, image=[made, 0], instruction=CHANGED)
    sample.note = (
        (
            "## One node each\n\n**BLIP3o Text to Image** and **BLIP3o Image Edit** do what the other samples do with "
            "several nodes. A new **noise_seed**, **steps** or **guidance** still writes no tokens again. Delete the "
            "first node and connect Load Image to edit an image of yours; connect its MASK to change only a part.\n\n"
        )
        + TINY
        + EDITS.replace("in BLIP3o Loader", "as checkpoint")
    )
    sample.column(320, note=[NOTE])
    sample.column(360, **{"1. Make an image": [made]})
    sample.column(290, **{"2. Look at it": [larger, shown]})
    sample.column(360, **{"3. Change it": [edited]})
    sample.column(390, Image=save(sample, edited))
    sample.compared = shown
    sample.inputs = [(made, "prompt"), (made, "seed"), (edited, "instruction"), (edited, "seed")]
    return sample


def two_prompts() -> Sample:
    sample = Sample("BLIP3o-15-Two-Prompts-in-One-Image", note_height=400)
    loader = load(sample)
    chain = add_chain(sample, loader, LEFT)
    second = sample.add("BLIP3oTokenGenerator", **{**sample.prompt[chain.generator]["inputs"], "prompt": RIGHT})
    other = sample.add("BLIP3oHiddenStateConditioner", lm=[loader, 0], tokens=[second, 0])
    halves = [
        sample.add(
            "ConditioningSetAreaPercentage", conditioning=[id, 0], width=0.5, height=1.0, x=x, y=0.0, strength=1.0
        )
        for id, x in ((chain.conditioner, 0.0), (other, 0.5))
    ]
    both = sample.add("ConditioningCombine", conditioning_1=[halves[0], 0], conditioning_2=[halves[1], 0])
    sample.subgraphs["Left half, right half"] = Subgraph(
        [chain.conditioner, other, *halves, both], [], ["negative", "positive"]
    )
    sample.prompt[chain.sampler]["inputs"]["positive"] = [both, 0]
    sample.prompt[chain.empty]["inputs"]["width"] *= 2  # each half is as large as what the model learned from
    sample.note = (
        (
            "## Two prompts in one image\n\nThe first prompt fills the left half, the second the right half. **Left "
            "half, right half** holds two Conditioners, two of ComfyUI's Conditioning (Set Area with Percentage) and "
            "Conditioning (Combine): open it to move the areas. Each area is best as large as an image of the "
            "model.\n\n"
        )
        + TINY
        + PHOTOGRAPHS.replace("1024 x 1024", "2048 x 1024")
    )
    sample.column(330, note=[NOTE], **{"Model and size": [loader, chain.empty]})
    sample.column(340, **{"1. Left": [chain.generator]})
    sample.column(340, **{"2. Right": [second]})
    sample.column(290, **{"3. Render": ["Left half, right half", chain.sampler, chain.decode]})
    sample.column(410, Image=save(sample, chain.decode))
    sample.inputs = [(chain.generator, "prompt"), (second, "prompt"), (chain.generator, "seed"), (second, "seed")]
    return sample


def second_pass() -> Sample:
    sample = Sample("BLIP3o-16-Second-Pass", note_height=400)
    loader = load(sample)
    chain = add_chain(sample, loader, SURFACE)
    enlarged, shown = show(sample, chain.decode)
    larger = sample.add("LatentUpscaleBy", samples=[chain.sampler, 0], upscale_method="bislerp", scale_by=1.0)
    again = sample.prompt[chain.sampler]["inputs"] | {
        "latent_image": [larger, 0], "denoise": SECOND_DENOISE, "noise_seed": 2
    }  # fmt: skip
    second = sample.add(SAMPLER, **again)
    decode = sample.add("VAEDecode", samples=[second, 0], vae=[loader, 2])
    sample.note = (
        (
            "## A second pass\n\nThe first image is rendered again from the middle on, with the same image tokens. "
            "Lower **denoise** on the second sampler to stay closer to the first image. **scale_by** enlarges the "
            "latent before: with a published checkpoint set it to 1.5. The tiny model loses its shapes at larger "
            "sizes, so here it is 1. How good a larger second pass is at which value was not measured.\n\n"
        )
        + TINY
        + PHOTOGRAPHS
    )
    sample.column(340, note=[NOTE], **{"Model and size": [loader, chain.empty]})
    sample.column(360, **{"1. Write image tokens": [chain.generator]})
    sample.column(290, **{"2. First pass": [chain.conditioner, chain.sampler, chain.decode, enlarged]})
    sample.column(290, **{"3. Second pass": [larger, second, decode]})
    sample.column(440, Image=save(sample, decode), **{"After the first pass": [shown]})
    sample.heights |= {shown: 240}
    sample.inputs = [(chain.generator, "prompt"), (chain.generator, "seed"), (second, "denoise")]
    return sample


def folder_of_images() -> Sample:
    sample = Sample("BLIP3o-17-A-Folder-of-Images", note_height=360)
    loader = load(sample)
    start = add_chain(sample, loader, FOLDER)
    one_by_one = sample.add("RebatchImages", images=[start.decode, 0], batch_size=1)
    larger = enlarge(sample, one_by_one)
    shown = sample.add("PreviewImage", images=[larger, 0])
    sample.subgraphs["A folder of images"] = Subgraph(
        [*start.ids, one_by_one, larger], [(start.generator, "prompt")], ["images", "to see"]
    )
    sample.heights["A folder of images"] = 230
    encoder = encode(sample, loader, one_by_one)
    chain = add_chain(sample, loader, EDIT, encoder)
    sample.note = (
        (
            "## One instruction, many images\n\nEach image is edited by itself, and all results are saved. **For your "
            "own folder** put it into ComfyUI/input, delete the node **A folder of images**, add **Load Image (from "
            "Folder)** in its place and choose the folder. For a table of images and instructions use the command "
            "blip3o queue.\n\n"
        )
        + TINY
        + EDITS
    )
    edit_columns(sample, loader, [shown, encoder], chain, save(sample, chain.decode))
    return sample
