"""Edits of one image and of several."""

from .parts import (
    EDIT,
    EDITS,
    PUBLISHED_SIDE,
    TINY,
    Sample,
    Subgraph,
    add_chain,
    edit_columns,
    encode,
    load,
    save,
    start_image,
    stitch,
)  # fmt: skip

SAY = (
    "Say in one sentence **what should change**. A new **seed** is another try. Lower **cross_strength** or "
    "**noise_strength** to move away from the original.\n\n"
)
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
    sample = Sample("BLIP3o-4-Masked-Edit", tiny=False, note_height=360)
    loader = load(sample)
    start, shown = start_image(sample, loader, prompt="a house on the left and a tree on the right")
    half = {"width": PUBLISHED_SIDE // 2, "height": PUBLISHED_SIDE}
    black = sample.add("SolidMask", value=0.0, **{**half, "width": PUBLISHED_SIDE})
    white = sample.add("SolidMask", value=1.0, **half)
    mask = sample.add(
        "MaskComposite", destination=[black, 0], source=[white, 0], x=PUBLISHED_SIDE // 2, y=0, operation="add"
    )  # fmt: skip
    visible = sample.add("MaskToImage", mask=[mask, 0])
    seen = sample.add("PreviewImage", images=[visible, 0])
    sample.heights |= {shown: 270, seen: 270}
    sample.room["What may change"] = 78
    sample.subgraphs["What may change"] = Subgraph([black, white, mask, visible], [], ["mask", "to see"])
    encoder = encode(sample, loader, start, mask=[mask, 0])
    chain = add_chain(sample, loader, "change the tree to a birch in autumn", encoder)
    whole = sample.add(
        "BLIP3oMaskedEdit", original=[start, 0], edited=[chain.decode, 0], mask=[mask, 0], feather=0
    )  # fmt: skip
    sample.note = (
        "## Edit a part of an image\n\n**Needs a published checkpoint.** The bundled tiny model mostly gets this "
        "wrong: choose BLIP3o-NEXT-edit-VAE in BLIP3o Loader first.\n\nWhite in the mask may change, here the "
        "right half. Where it is black, **every pixel stays as it was**: BLIP3o Masked Edit puts the edit into "
        "the original.\n\nWith Load Image you paint the mask: right-click the image, choose **Open in Mask "
        "Editor**, and connect its MASK.\n\n"
    ) + EDITS
    edit_columns(
        sample, loader, [shown, "What may change", seen, encoder], chain,
        save(sample, whole), after=[whole],
    )  # fmt: skip
    return sample


def two_references() -> Sample:
    sample = Sample("BLIP3o-5-Two-References", tiny=False, note_height=360)
    loader = load(sample)
    first, second, shown = _two(sample, loader)
    encoder = encode(sample, loader, first, second)
    chain = add_chain(sample, loader, "put the hat of image 2 on the dog of image 1", encoder)
    counts = sample.add("PreviewAny", source=[chain.generator, 1])
    sample.note = (
        "## Edit with two images\n\n**Needs a published checkpoint.** The bundled tiny model learned from one image "
        "at a time and gets this wrong: choose BLIP3o-NEXT-edit-VAE in BLIP3o Loader first.\n\nWrite **image 1** or "
        "**image 2** in the prompt: the sockets have these numbers. A new socket appears when you connect the last "
        "one, up to eight. Each takes up part of the prompt; the text under the prompt shows how much.\n\n"
    ) + EDITS
    edit_columns(sample, loader, [shown, encoder], chain, save(sample, chain.decode), [counts])
    return sample


def wide_edit() -> Sample:
    sample = Sample("BLIP3o-6-Wide-Edit", tiny=False, note_height=360)
    loader = load(sample)
    start, shown = start_image(sample, loader, "A wide image to edit", "a mountain lake in summer", wide=True)
    encoder = encode(sample, loader, start)
    chain = add_chain(sample, loader, "make it winter", encoder)
    sizes = sample.add("PreviewAny", source=[encoder, 3])
    sample.note = (
        "## Edit a wide image\n\n**Needs a published checkpoint.** The bundled tiny model learned from square images "
        "and gets this wrong: choose BLIP3o-NEXT-edit-VAE in BLIP3o Loader first.\n\nThe language model sees a square, "
        "so the image is stretched into one; **fit** has other options. The diffusion transformer sees the image at "
        "its own shape, and the result has that shape, too. The text under the encoder shows the sizes after a run.\n\n"
    ) + EDITS
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
    start, shown = start_image(sample, loader)
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
    chain = add_chain(sample, loader, "a small dog on a beach\na red party hat on a white background")
    first, second = (
        sample.add("ImageFromBatch", image=[chain.decode, 0], batch_index=k, length=1) for k in range(2)
    )  # fmt: skip
    both = stitch(sample, first, second)
    shown = sample.add("PreviewImage", images=[both, 0])
    sample.subgraphs["Two images to edit"] = Subgraph(
        [*chain.ids, first, second, both], [(chain.generator, "prompt")], ["image_1", "image_2", "to see"]
    )
    sample.heights |= {"Two images to edit": 230, shown: 270}
    return first, second, shown
