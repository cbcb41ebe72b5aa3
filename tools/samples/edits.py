"""Edits of one image and of several."""

from .parts import (
    COMPOSED,
    EDIT,
    EDITS,
    SIDE,
    TEXTURED,
    TINY,
    TO_COMPOSE,
    TO_KEEP,
    TO_WIDEN,
    Sample,
    Subgraph,
    add_chain,
    edit_columns,
    encode,
    enlarge,
    load,
    save,
    start_image,
    stitch,
)  # fmt: skip

SAY = (
    "Say in one sentence **what should change**. A new **seed** is another try. Lower **cross_strength** or "
    "**noise_strength** to move away from the original.\n\n"
)
MASKED_EDIT = "change the blue square to green"
OWN = "**For your own image** delete the node **An image to edit** and add Load Image in its place.\n\n"


def edit() -> Sample:
    sample = Sample("BLIP3o-3-Image-Edit")
    loader = load(sample)
    start, shown = start_image(sample, loader)
    encoder = encode(sample, loader, start)
    chain = add_chain(sample, loader, EDIT, encoder)
    sample.note = "## Edit an image\n\n" + SAY + OWN + TINY + EDITS
    sample.compared = shown
    edit_columns(sample, loader, [shown, encoder], chain, save(sample, chain.decode))
    return sample


def masked_edit() -> Sample:
    sample = Sample("BLIP3o-4-Masked-Edit", note_height=360)
    loader = load(sample)
    start, shown = start_image(sample, loader, prompt=TEXTURED)
    # Where the image has little red is the blue square; a rim around it may change, too.
    red = sample.add("ImageToMask", image=[start, 0], channel="red")
    inverted = sample.add("InvertMask", mask=[red, 0])
    square = sample.add("ThresholdMask", mask=[inverted, 0], value=0.5)
    mask = sample.add("GrowMask", mask=[square, 0], expand=SIDE // 32, tapered_corners=True)
    visible = sample.add("MaskToImage", mask=[mask, 0])
    seen = sample.add("PreviewImage", images=[visible, 0])
    sample.heights |= {shown: 270, seen: 270}
    sample.room["What may change"] = 78
    sample.subgraphs["What may change"] = Subgraph([red, inverted, square, mask, visible], [], ["mask", "to see"])
    encoder = encode(sample, loader, start, mask=[mask, 0])
    chain = add_chain(sample, loader, MASKED_EDIT, encoder)
    whole = sample.add(
        "BLIP3oMaskedEdit", original=[start, 0], edited=[chain.decode, 0], mask=[mask, 0], feather=0
    )  # fmt: skip
    sample.note = (
        (
            "## Edit a part of an image\n\nWhite in the mask may change, here what is blue. Where it is black, **every "
            "pixel stays as it was**: BLIP3o Masked Edit puts the edit into the original.\n\n**To paint the mask** "
            "delete **What may change** and the image before it, add Load Image, right-click its image, choose **Open "
            "in Mask Editor**, and connect IMAGE and MASK.\n\n"
        )
        + TINY
        + EDITS
    )
    sample.compared = shown
    edit_columns(
        sample, loader, [shown, "What may change", seen, encoder], chain,
        save(sample, whole), after=[whole],
    )  # fmt: skip
    return sample


def two_references() -> Sample:
    sample = Sample("BLIP3o-5-Two-References", note_height=360)
    loader = load(sample)
    first, second, shown = _two(sample, loader)
    encoder = encode(sample, loader, first, second)
    chain = add_chain(sample, loader, COMPOSED, encoder)
    counts = sample.add("PreviewAny", source=[chain.generator, 1])
    sample.note = (
        (
            "## Edit with two images\n\nWrite **image 1** or **image 2** in the prompt: the sockets have these "
            "numbers. A new socket appears when you connect the last one, up to eight; the tiny model knows two. Each "
            "takes up part of the prompt; the text under the prompt shows how much.\n\n"
        )
        + TINY
        + EDITS
    )
    sample.compared = shown
    edit_columns(sample, loader, [shown, encoder], chain, save(sample, chain.decode), [counts])
    return sample


def wide_edit() -> Sample:
    sample = Sample("BLIP3o-6-Wide-Edit", note_height=360)
    loader = load(sample)
    start, shown = start_image(sample, loader, "A wide image to edit", TO_WIDEN, wide=True)
    encoder = encode(sample, loader, start)
    chain = add_chain(sample, loader, EDIT, encoder)
    sizes = sample.add("PreviewAny", source=[encoder, 3])
    sample.note = (
        (
            "## Edit a wide image\n\nThe language model sees a square, so the image is stretched into one; **fit** has "
            "other options. The diffusion transformer sees the image at its own shape, and the result has that shape, "
            "too. The text under the encoder shows the sizes after a run.\n\n"
        )
        + TINY
        + EDITS
    )
    edit_columns(sample, loader, [shown, encoder, sizes], chain, save(sample, chain.decode))
    return sample


def edit_another_models_output() -> Sample:
    sample = Sample("BLIP3o-7-Edit-Another-Models-Output")
    stand_in = load(sample)
    start, shown = start_image(sample, stand_in, "Any other model")
    sample.subgraphs["Any other model"].ids.append(stand_in)
    loader = load(sample)
    encoder = encode(sample, loader, start)
    chain = add_chain(sample, loader, EDIT, encoder)
    sample.note = (
        (
            "## Edit the image of a different model\n\n**Any other model** stands for SDXL, Flux, Qwen-Image or a "
            "frame of a video. It only has to give an IMAGE. Here the tiny model takes that place, so that the "
            "workflow runs at once. Delete that node, add your own nodes and connect their IMAGE to **image_1**.\n\n"
        )
        + TINY
        + EDITS
    )
    edit_columns(sample, loader, [shown, encoder], chain, save(sample, chain.decode))
    return sample


def keep_unchanged() -> Sample:
    sample = Sample("BLIP3o-8-Keep-Unchanged")
    loader = load(sample)
    start, shown = start_image(sample, loader, prompt=TO_KEEP)
    encoder = encode(sample, loader, start)
    chain = add_chain(sample, loader, "Keep the image unchanged.", encoder)
    both = stitch(sample, start, chain.decode, 2)
    sample.note = (
        (
            "## A self-test\n\nThe authors trained with this sentence. The image should not change. **Before** is on "
            "the left and **after** on the right. The more alike they are, the less an edit changes by accident. Run "
            "it with every new checkpoint.\n\n"
        )
        + TINY
        + EDITS
    )
    edit_columns(sample, loader, [shown, encoder], chain, save(sample, both), after=[both])
    return sample


def _two(sample: Sample, loader: str) -> tuple[str, str, str]:
    """Adds the subgraph that makes two images as one batch -> the nodes that give each of them and show both."""
    chain = add_chain(sample, loader, TO_COMPOSE)
    first, second = (
        sample.add("ImageFromBatch", image=[chain.decode, 0], batch_index=k, length=1) for k in range(2)
    )  # fmt: skip
    stitched = stitch(sample, first, second)
    both = enlarge(sample, stitched)
    shown = sample.add("PreviewImage", images=[both, 0])
    sample.subgraphs["Two images to edit"] = Subgraph(
        [*chain.ids, first, second, stitched, both],
        [(chain.generator, "prompt")],
        ["image_1", "image_2", "to see"],
    )
    sample.heights |= {"Two images to edit": 230, shown: 270}
    return first, second, shown
