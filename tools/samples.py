"""The graphs behind `workflows/*.json` in API format, with their columns, notes and what App mode shows of them."""

from dataclasses import dataclass, field

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.tiny.evaluation import GUIDANCE, STEPS

SIDE = 64  # pixels on a side of the bundled model's images
ENLARGE = 8
# Of samples that are not for the bundled model
PUBLISHED, PUBLISHED_SIDE, PUBLISHED_STEPS = "BLIP3o-NEXT-edit-VAE", 1024, 30
PREVIEW_STEPS = 4
SAMPLER = "BLIP3oDiffusionSampler"
NOTE = "note"  # its place among the ids of a column

# What the bundled model gets right with every seed that was tried; tests/host/test_samples_are_right.py judges it.
START = "a red circle left of a blue star"
TO_EDIT = "a red circle left of a blue square"
EDIT = "make the background yellow"


@dataclass(frozen=True)
class Subgraph:
    """Nodes shown as one. `inputs`: widgets on it as (id, name); `outputs`: what its outputs are called, in order."""

    ids: list[str]
    inputs: list[tuple[str, str]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """`groups`: {title: nodes from top to bottom}, each an id, the title of a subgraph, or NOTE."""

    width: int
    groups: dict[str, list[str]]


@dataclass
class Sample:
    """A workflow to write. `tiny`: whether the bundled model does what the sample shows."""

    name: str
    note: str = ""
    tiny: bool = True
    note_height: int = 330
    prompt: dict[str, dict] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)
    subgraphs: dict[str, Subgraph] = field(default_factory=dict)
    compared: str | None = None  # the preview that its thumbnail shows before the image
    inputs: list[tuple[str, str]] = field(default_factory=list)  # of App mode: (id, widget)
    heights: dict[str, int] = field(default_factory=dict)  # as saved
    room: dict[str, int] = field(default_factory=dict)  # what a node takes after a run

    def add(self, class_type: str, **inputs) -> str:
        """The new node's id."""
        id = str(len(self.prompt) + 1)
        self.prompt[id] = {"class_type": class_type, "inputs": inputs}
        for heights, known in ((self.heights, HEIGHTS), (self.room, ROOM)):
            if class_type in known:
                heights[id] = known[class_type]
        return id

    def column(self, width: int, **groups) -> None:
        self.columns.append(Column(width, groups))


# The image that these show after a run has room from the start.
HEIGHTS = {SAMPLER: 480, "SaveImage": 520, "PreviewImage": 300, "PreviewAny": 150}
# These grow by a text or an image when they run, or are higher in Nodes 2.0: what the higher renderer needs.
ROOM = {
    "BLIP3oLoader": 262, "BLIP3oTokenGenerator": 750, "BLIP3oEditReferenceEncoder": 274, "BLIP3oMaskedEdit": 126,
    "EmptyLatentImage": 118, "VAEDecode": 54, "ImageScaleBy": 90,
}  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """The nodes from a prompt to an image, by id."""

    generator: str
    conditioner: str
    empty: str | None
    sampler: str
    decode: str

    @property
    def ids(self) -> list[str]:
        return [self.generator, self.conditioner, self.empty, self.sampler, self.decode]


def load(sample: Sample) -> str:
    return sample.add("BLIP3oLoader", checkpoint=NAME if sample.tiny else PUBLISHED, dtype="auto")


def add_chain(
    sample: Sample, loader: str, prompt: str, encoder: str | None = None, wide=False,
) -> Chain:  # fmt: skip
    """Adds the nodes from `prompt` to an image; with an `encoder` (a reference node), an edit of its images."""
    reference = {} if encoder is None else {"reference": [encoder, 0]}
    generator = sample.add(
        "BLIP3oTokenGenerator", lm=[loader, 0], prompt=prompt, seed=1, batch_size=1,
        prompt_lines="one per line" if "\n" in prompt else "one prompt",
        **{"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0},
        **reference,
    )  # fmt: skip
    conditioner = sample.add("BLIP3oHiddenStateConditioner", lm=[loader, 0], tokens=[generator, 0], **reference)
    side, steps = (SIDE, STEPS) if sample.tiny else (PUBLISHED_SIDE, PUBLISHED_STEPS)
    size = {"width": side * 3 // 2 if wide else side, "height": side}
    empty = None if encoder else sample.add("EmptyLatentImage", **size, batch_size=1)
    wires = {
        "model": [loader, 1], "positive": [conditioner, 0], "negative": [conditioner, 1],
        "latent_image": [encoder, 2] if encoder else [empty, 0], "steps": steps, "denoise": 1.0,
    }  # fmt: skip
    rendered = sample.add(SAMPLER, **wires, noise_seed=1, guidance=GUIDANCE)
    decode = sample.add("VAEDecode", samples=[rendered, 0], vae=[loader, 2])
    return Chain(generator, conditioner, empty, rendered, decode)


def enlarge(sample: Sample, image: str) -> str:
    """64 pixels are a postage stamp on a screen; what a published checkpoint makes is large enough."""
    if not sample.tiny:
        return image
    return sample.add("ImageScaleBy", image=[image, 0], upscale_method="bicubic", scale_by=float(ENLARGE))


def save(sample: Sample, image: str) -> list[str]:
    larger = enlarge(sample, image)
    return [*([larger] if sample.tiny else []), sample.add("SaveImage", images=[larger, 0], filename_prefix="BLIP3o")]


def show(sample: Sample, image: str) -> tuple[str, str]:
    """The nodes that enlarge and show an image on the way."""
    larger = enlarge(sample, image)
    return larger, sample.add("PreviewImage", images=[larger, 0])


def encode(sample: Sample, loader: str, *images: str, **more) -> str:
    sockets = {f"images.image_{k}": [image, 0] for k, image in enumerate(images, 1)}
    return sample.add(
        "BLIP3oEditReferenceEncoder", image_tokenizer=[loader, 3], vae=[loader, 2], **sockets, fit="stretch", **more
    )  # fmt: skip


def stitch(sample: Sample, first: str, second: str, spacing: int = 0) -> str:
    return sample.add(
        "ImageStitch", image1=[first, 0], image2=[second, 0], direction="right", match_image_size=True,
        spacing_width=spacing, spacing_color="black",
    )  # fmt: skip


def text_to_image() -> Sample:
    sample = Sample("BLIP3o-1-Text-to-Image", note_height=390)
    loader = load(sample)
    chain = add_chain(sample, loader, START)
    sample.note = (
        (
            "## Text to image\n\nWrite a prompt and press **Run**. A new **seed** gives a new image. A new "
            "**noise_seed**, **steps** or **guidance** renders the same image tokens in another way and takes less "
            "time.\n\nFor several images raise **batch_size** on Token Generator, not on Empty Latent Image.\n\n"
        )
        + _TINY
        + _PHOTOGRAPHS
    )
    sample.column(380, note=[NOTE], Model=[loader])
    sample.column(420, **{"1. Write image tokens": [chain.generator]})
    sample.column(340, **{"2. Condition": [chain.empty, chain.conditioner], "3. Render": [chain.sampler]})
    sample.column(540, Image=[chain.decode, *save(sample, chain.decode)])
    sample.inputs = [(chain.generator, "prompt"), (chain.generator, "seed"), (chain.sampler, "noise_seed")]
    return sample


def preview() -> Sample:
    sample = Sample("BLIP3o-2-Quick-Preview", note_height=390)
    loader = load(sample)
    chain = add_chain(sample, loader, START)
    inputs = dict(sample.prompt[chain.sampler]["inputs"])
    quick = sample.add(SAMPLER, **{**inputs, "steps": PREVIEW_STEPS})
    quick_image = sample.add("VAEDecode", samples=[quick, 0], vae=[loader, 2])
    larger, shown = show(sample, quick_image)
    sample.note = (
        (
            "## Quick preview\n\nFour steps show what will be in the image, in a fifth of the time. Change **seed** "
            "until you like the preview; mute **Save Image** with Ctrl+M meanwhile. Then unmute it and press **Run**: "
            "both use the same image tokens. Keep **noise_seed** the same on both samplers.\n\n"
        )
        + _TINY
        + _PHOTOGRAPHS
    )
    sample.column(340, note=[NOTE], **{"Model and size": [loader, chain.empty]})
    sample.column(380, **{"1. Write image tokens": [chain.generator]})
    sample.column(280, **{"2. Condition and preview": [chain.conditioner, quick, quick_image, larger]})
    sample.column(300, **{"3. Preview": [shown], "4. Render": [chain.sampler, chain.decode]})
    sample.column(340, **{"Image": save(sample, chain.decode)})
    sample.heights[shown], sample.compared = 270, shown
    sample.inputs = [(chain.generator, "prompt"), (chain.generator, "seed")]
    return sample


def edit() -> Sample:
    sample = Sample("BLIP3o-3-Image-Edit")
    loader = load(sample)
    start, shown = _start(sample, loader)
    encoder = encode(sample, loader, start)
    chain = add_chain(sample, loader, EDIT, encoder)
    sample.note = "## Edit an image\n\n" + _SAY + _OWN + _TINY + _EDITS
    sample.compared = shown
    _columns(sample, loader, [shown, encoder], chain, save(sample, chain.decode))
    return sample


def masked_edit() -> Sample:
    sample = Sample("BLIP3o-4-Masked-Edit", tiny=False, note_height=360)
    loader = load(sample)
    start, shown = _start(sample, loader, prompt="a house on the left and a tree on the right")
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
    ) + _EDITS
    _columns(
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
    ) + _EDITS
    _columns(sample, loader, [shown, encoder], chain, save(sample, chain.decode), [counts])
    return sample


def wide_edit() -> Sample:
    sample = Sample("BLIP3o-6-Wide-Edit", tiny=False, note_height=360)
    loader = load(sample)
    start, shown = _start(sample, loader, "A wide image to edit", "a mountain lake in summer", wide=True)
    encoder = encode(sample, loader, start)
    chain = add_chain(sample, loader, "make it winter", encoder)
    sizes = sample.add("PreviewAny", source=[encoder, 3])
    sample.note = (
        "## Edit a wide image\n\n**Needs a published checkpoint.** The bundled tiny model learned from square images "
        "and gets this wrong: choose BLIP3o-NEXT-edit-VAE in BLIP3o Loader first.\n\nThe language model sees a square, "
        "so the image is stretched into one; **fit** has other options. The diffusion transformer sees the image at "
        "its own shape, and the result has that shape, too. The text under the encoder shows the sizes after a run.\n\n"
    ) + _EDITS
    _columns(sample, loader, [shown, encoder, sizes], chain, save(sample, chain.decode))
    return sample


def edit_another_models_output() -> Sample:
    sample = Sample("BLIP3o-7-Edit-Another-Models-Output")
    stand_in = load(sample)
    start, shown = _start(sample, stand_in, "Any other model")
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
        + _TINY
        + _EDITS
    )
    _columns(sample, loader, [shown, encoder], chain, save(sample, chain.decode))
    return sample


def keep_unchanged() -> Sample:
    sample = Sample("BLIP3o-8-Keep-Unchanged")
    loader = load(sample)
    start, shown = _start(sample, loader)
    encoder = encode(sample, loader, start)
    chain = add_chain(sample, loader, "Keep the image unchanged.", encoder)
    both = stitch(sample, start, chain.decode, 2)
    sample.note = (
        (
            "## A self-test\n\nThe authors trained with this sentence. The image should not change. **Before** is on "
            "the left and **after** on the right. The more alike they are, the less an edit changes by accident. Run "
            "it with every new checkpoint.\n\n"
        )
        + _TINY
        + _EDITS
    )
    _columns(sample, loader, [shown, encoder], chain, save(sample, both), after=[both])
    return sample


def _start(
    sample: Sample, loader: str, title: str = "An image to edit", prompt: str = TO_EDIT, wide=False,
) -> tuple[str, str]:  # fmt: skip
    """Adds the subgraph that makes an image to edit -> the nodes that give it and show it."""
    chain = add_chain(sample, loader, prompt, wide=wide)
    larger = enlarge(sample, chain.decode)
    shown = sample.add("PreviewImage", images=[larger, 0])
    ids = [*chain.ids, *([larger] if sample.tiny else [])]
    sample.subgraphs[title] = Subgraph(ids, [(chain.generator, "prompt")], ["image", "to see"])
    sample.heights[title] = 230
    return chain.decode, shown


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


def _columns(
    sample: Sample, loader: str, read: list[str], chain: Chain, image: list[str], under: list[str] | None = None,
    after: list[str] | None = None,
) -> None:  # fmt: skip
    """The five columns of an edit; `under`: what stands below the prompt, `after`: below the rendering."""
    start = next(title for title in sample.subgraphs if title != "What may change")
    first = {"note": [NOTE], "Model": [loader], start: [start]}
    sample.column(340, **first)
    sample.column(280, **{"1. Encode the image": read})
    sample.column(370, **{"2. Say what to change": [chain.generator, *(under or [])]})
    sample.column(290, **{"3. Render": [chain.conditioner, chain.sampler, chain.decode, *(after or [])]})
    sample.column(390, Image=image)
    sample.inputs = [(chain.generator, "prompt"), (chain.generator, "seed"), (start, "prompt")]


_PUBLISHED = "https://huggingface.co/BLIP3o"
_TINY = (
    "The bundled **tiny model** knows up to four coloured shapes (circle, square, triangle, star, ring, cross) at 64 x "
    "64 pixels. Upscale Image By only enlarges its images.\n\n"
)
_PHOTOGRAPHS = (
    "**For photographs**\n\n"
    f"Put the folder of [BLIP3o-NEXT-SFT-3B]({_PUBLISHED}/BLIP3o-NEXT-SFT-3B) here, press R and choose it in BLIP3o "
    "Loader:\n"
    "- ComfyUI\n  - models\n    - blip3o\n      - BLIP3o-NEXT-SFT-3B\n\n"
    "Set 1024 x 1024 and 30 steps, and bypass Upscale Image By (Ctrl+B).\n"
)
_EDITS = (
    f"**For photographs** put [BLIP3o-NEXT-edit-VAE]({_PUBLISHED}/BLIP3o-NEXT-edit-VAE) here, press R and choose it "
    "in BLIP3o Loader:\n- ComfyUI\n  - models\n    - blip3o\n      - BLIP3o-NEXT-edit-VAE\n"
)
_SAY = (
    "Say in one sentence **what should change**. A new **seed** is another try. Lower **cross_strength** or "
    "**noise_strength** to move away from the original.\n\n"
)
_OWN = "**For your own image** delete the node **An image to edit** and add Load Image in its place.\n\n"

SAMPLES = [
    make()
    for make in (
        text_to_image, preview, edit, masked_edit, two_references, wide_edit, edit_another_models_output,
        keep_unchanged,
    )
]  # fmt: skip
