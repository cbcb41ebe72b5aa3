"""The graphs behind `workflows/*.json` in API format, with their columns and the notes above the columns."""

from dataclasses import dataclass, field

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.tiny.evaluation import GUIDANCE, STEPS

SIDE = 64  # pixels on a side of the bundled model's images
ENLARGE = 8
PREVIEW_STEPS = 4
START = "a red circle left of a blue star"
RECOLOUR = "change the blue star to green"
OURS, STOCK = "BLIP3oDiffusionSampler", "KSampler"
# Heights for nodes that will show an image or a text: the frontend leaves no room for it.
HEIGHTS = {
    "BLIP3oTokenGenerator": 680, OURS: 560, STOCK: 600, "SaveImage": 440, "PreviewImage": 330, "MaskPreview": 330,
    "PreviewAny": 200,
}  # fmt: skip


@dataclass(frozen=True)
class Note:
    text: str
    height: int = 120


@dataclass
class Sample:
    """A workflow to write: the graph in API format, columns as {title: stacks of node ids}, notes on top of columns."""

    name: str
    prompt: dict[str, dict] = field(default_factory=dict)
    columns: dict[str, list[list[str]]] = field(default_factory=dict)
    notes: dict[str, Note] = field(default_factory=dict)

    def add(self, class_type: str, **inputs) -> str:
        """The new node's id."""
        id = str(len(self.prompt) + 1)
        self.prompt[id] = {"class_type": class_type, "inputs": inputs}
        return id

    def column(self, title: str, *stacks: list[str], note: Note | None = None) -> None:
        self.columns[title] = list(stacks)
        if note is not None:
            self.notes[title] = note

    @property
    def heights(self) -> dict[str, int]:
        kinds = {id: node["class_type"] for id, node in self.prompt.items()}
        return {id: HEIGHTS[kind] for id, kind in kinds.items() if kind in HEIGHTS}


@dataclass(frozen=True)
class Chain:
    """The nodes from a prompt to an image, by id."""

    generator: str
    conditioner: str
    empty: str | None
    sampler: str
    decode: str


def load(sample: Sample) -> str:
    return sample.add("BLIP3oLoader", checkpoint=NAME, dtype="auto")


def add_chain(
    sample: Sample, loader: str, prompt: str, encoder: str | None = None, sampler=OURS, prompt_lines: str = "one prompt"
) -> Chain:
    """Adds the nodes from `prompt` to an image; with an `encoder` (a reference node), an edit of its images."""
    reference = {} if encoder is None else {"reference": [encoder, 0]}
    generator = sample.add(
        "BLIP3oTokenGenerator", lm=[loader, 0], prompt=prompt, seed=1, batch_size=1, prompt_lines=prompt_lines,
        **{"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0},
        **reference,
    )  # fmt: skip
    conditioner = sample.add("BLIP3oHiddenStateConditioner", lm=[loader, 0], tokens=[generator, 0], **reference)
    empty = None if encoder else sample.add("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1)
    wires = {
        "model": [loader, 1], "positive": [conditioner, 0], "negative": [conditioner, 1],
        "latent_image": [encoder, 2] if encoder else [empty, 0], "steps": STEPS, "denoise": 1.0,
    }  # fmt: skip
    if sampler == STOCK:
        rendered = sample.add(
            STOCK, **wires, seed=1, cfg=GUIDANCE, sampler_name="euler", scheduler="simple"
        )  # fmt: skip
    else:
        rendered = sample.add(OURS, **wires, noise_seed=1, guidance=GUIDANCE)
    decode = sample.add("VAEDecode", samples=[rendered, 0], vae=[loader, 2])
    return Chain(generator, conditioner, empty, rendered, decode)


def save(sample: Sample, image: str) -> list[str]:
    larger = sample.add("ImageScaleBy", image=[image, 0], upscale_method="bicubic", scale_by=float(ENLARGE))
    return [larger, sample.add("SaveImage", images=[larger, 0], filename_prefix="BLIP3o")]


def encode(sample: Sample, loader: str, *images: str, **more) -> str:
    sockets = {f"images.image_{k}": [image, 0] for k, image in enumerate(images, 1)}
    return sample.add(
        "BLIP3oEditReferenceEncoder", image_tokenizer=[loader, 3], vae=[loader, 2], **sockets, fit="stretch", **more
    )  # fmt: skip


def text_to_image() -> Sample:
    sample = Sample("text_to_image")
    loader = load(sample)
    chain = add_chain(sample, loader, START)
    sample.column("Model", [loader], note=_MODEL)
    sample.column(
        "1. Write image tokens", [chain.generator],
        note=Note(
            "The language model decides **what** is in the image. A new `seed` gives a new image. "
            "This is the slow part. It runs again only when something on this node changes."
        ),
    )  # fmt: skip
    sample.column("2. Condition", [chain.conditioner, chain.empty])
    sample.column(
        "3. Render", [chain.sampler],
        note=Note(
            "The diffusion transformer decides **how** it looks. Change `noise_seed`, `steps`, `guidance` or the size: "
            "the tokens are kept. KSampler (euler, simple, 20 steps) works in its place."
        ),
    )  # fmt: skip
    sample.column(
        "Image", [chain.decode, *save(sample, chain.decode)],
        note=_LARGER,
    )  # fmt: skip
    return sample


def preview() -> Sample:
    sample = Sample("preview")
    loader = load(sample)
    chain = add_chain(sample, loader, START)
    inputs = dict(sample.prompt[chain.sampler]["inputs"])
    quick = sample.add(OURS, **{**inputs, "steps": PREVIEW_STEPS})
    quick_image = sample.add("VAEDecode", samples=[quick, 0], vae=[loader, 2])
    larger = sample.add("ImageScaleBy", image=[quick_image, 0], upscale_method="bicubic", scale_by=float(ENLARGE))
    shown = sample.add("PreviewImage", images=[larger, 0])
    sample.column("Model", [loader], note=_MODEL)
    sample.column(
        "1. Write image tokens", [chain.generator],
        note=Note("Change `seed` until you like the preview. Both images are rendered from these tokens."),
    )  # fmt: skip
    sample.column("2. Condition", [chain.conditioner, chain.empty])
    sample.column(
        "3. Preview", [quick, quick_image, larger, shown],
        note=Note(
            "Four steps show what will be in the image, in a fifth of the time. Keep `noise_seed` the same on both."
        ),
    )  # fmt: skip
    sample.column(
        "4. Render", [chain.sampler, chain.decode, *save(sample, chain.decode)],
        note=Note(
            "All steps. Mute these nodes (Ctrl+M) while you look for a seed. Then unmute them and queue again: the "
            "tokens are kept."
        ),
    )  # fmt: skip
    return sample


def edit() -> Sample:
    sample, loader, start = _started("edit")
    encoder = encode(sample, loader, start)
    chain = _edited(sample, loader, RECOLOUR, encoder)
    sample.column("Image", [chain.decode, *save(sample, chain.decode)], note=_LARGER)
    return sample


def masked_edit() -> Sample:
    sample, loader, start = _started("masked_edit")
    black = sample.add("SolidMask", value=0.0, width=SIDE, height=SIDE)
    white = sample.add("SolidMask", value=1.0, width=SIDE // 2, height=SIDE)
    mask = sample.add(
        "MaskComposite", destination=[black, 0], source=[white, 0], x=SIDE // 2, y=0, operation="add"
    )  # fmt: skip
    shown = sample.add("MaskPreview", mask=[mask, 0])
    sample.column(
        "What may change", [black, white, mask, shown],
        note=Note(
            "White may change, black stays. Here the right half is white, where the star is.\n\n"
            "With Load Image you paint the mask: right-click the image, choose **Open in Mask Editor**, and connect "
            "its MASK instead of this one.",
            height=170,
        ),
    )  # fmt: skip
    encoder = encode(sample, loader, start, mask=[mask, 0])
    chain = _edited(sample, loader, RECOLOUR, encoder)
    whole = sample.add(
        "BLIP3oMaskedEdit", original=[start, 0], edited=[chain.decode, 0], mask=[mask, 0], feather=0
    )  # fmt: skip
    sample.column(
        "Image", [chain.decode, whole, *save(sample, whole)],
        note=Note(
            "BLIP3o Masked Edit puts the edit into the original. Where the mask is black, **every pixel stays as it "
            "was**. `feather` softens the edge, on the white side only.\n\nUpscale Image By only enlarges the image.",
            height=150,
        ),
    )  # fmt: skip
    return sample


def two_references() -> Sample:
    sample, loader, first, second = _started_twice("two_references")
    encoder = encode(sample, loader, first, second)
    chain = _edited(
        sample, loader, "put the star of image 2 into image 1", encoder,
        Note(
            "Write **image 1**, **image 2** or **the first image** in the prompt: the sockets have these numbers. "
            "A new socket appears when you connect the last one, up to eight.\n\n"
            "The result is as large as image 1.",
            height=150,
        ),
        Note(
            "Each reference takes up part of the prompt: 64 of 512 tokens with the tiny model, 729 with the published "
            "ones. The text below shows the count after a run. A prompt that does not fit is refused, never cut.\n\n"
            "The tiny model was trained with **one** reference, so it does not combine two well. Use a published edit "
            "checkpoint for that.",
            height=190,
        ),
        info="generator",
    )  # fmt: skip
    sample.column("Image", [chain.decode, *save(sample, chain.decode)], note=_LARGER)
    return sample


def wide_edit() -> Sample:
    sample, loader, first, second = _started_twice("wide_edit")
    wide = sample.add("ImageStitch", image1=[first, 0], image2=[second, 0], direction="right", match_image_size=True,
                      spacing_width=0, spacing_color="white")  # fmt: skip
    preview = sample.add("PreviewImage", images=[wide, 0])
    sample.column(
        "Side by side", [wide, preview], note=Note("An image twice as wide as high: 128 x 64 pixels.", height=80)
    )  # fmt: skip
    encoder = encode(sample, loader, wide)
    chain = _edited(
        sample, loader, RECOLOUR, encoder,
        Note(
            "The language model sees a square, so the image is stretched into one; `fit` has other options. The "
            "diffusion transformer sees the whole image at its own aspect ratio.\n\n"
            "The text below shows the sizes after a run.",
            height=180,
        ),
        info="encoder",
    )  # fmt: skip
    sample.column(
        "Image", [chain.decode, *save(sample, chain.decode)],
        note=Note("The edit is wide, too: its size comes from the encoder's `latent`. Raise `resolution` on the "
                  "encoder for more pixels. Upscale Image By only enlarges the image.", height=130),
    )  # fmt: skip
    return sample


def edit_another_models_output() -> Sample:
    sample = Sample("edit_another_models_output")
    stand_in = load(sample)
    chain = add_chain(sample, stand_in, START, sampler=STOCK)
    preview = sample.add("PreviewImage", images=[chain.decode, 0])
    sample.column(
        "Any other model", [stand_in, chain.generator], [chain.conditioner, chain.empty, chain.sampler],
        [chain.decode, preview],
        note=Note(
            "This group stands for **any model you like**: SDXL, Flux, Qwen-Image or a frame of a video. It only has "
            "to give an IMAGE.\n\nHere the tiny model with KSampler takes that place, so that the workflow runs at "
            "once. Delete the group, add your own nodes and connect their IMAGE to `image_1`.",
            height=190,
        ),
    )  # fmt: skip
    loader = load(sample)
    sample.column("Model that edits", [loader], note=_EDIT_MODEL)
    encoder = encode(sample, loader, chain.decode)
    edited = _edited(sample, loader, RECOLOUR, encoder)
    sample.column("Image", [edited.decode, *save(sample, edited.decode)], note=_LARGER)
    return sample


def keep_unchanged() -> Sample:
    sample, loader, start = _started("keep_unchanged")
    encoder = encode(sample, loader, start)
    chain = _edited(
        sample, loader, "Keep the image unchanged.", encoder,
        what=Note("The authors trained with this sentence. The image should not change.", height=80),
    )  # fmt: skip
    both = sample.add("ImageStitch", image1=[start, 0], image2=[chain.decode, 0], direction="right",
                      match_image_size=True, spacing_width=2, spacing_color="black")  # fmt: skip
    sample.column(
        "Before | after", [chain.decode, both, *save(sample, both)],
        note=Note(
            "A self-test: the image before is on the left, after on the right. The more alike they are, the less an "
            "edit changes by accident. Run it with every new checkpoint.",
            height=130,
        ),
    )  # fmt: skip
    return sample


def _started(name: str) -> tuple[Sample, str, str]:
    """A sample that starts with an image to edit, its loader, and the node that gives the image."""
    sample = Sample(name)
    loader = load(sample)
    chain = add_chain(sample, loader, START)
    preview = sample.add("PreviewImage", images=[chain.decode, 0])
    sample.column("Model", [loader], note=_EDIT_MODEL)
    sample.column(
        "An image to edit", [chain.generator], [chain.conditioner, chain.empty, chain.sampler], [chain.decode, preview],
        note=Note(
            "The model makes an image first, so that there is something to edit. **To edit your own image** delete "
            "this group and add Load Image in its place.",
        ),
    )  # fmt: skip
    return sample, loader, chain.decode


def _started_twice(name: str) -> tuple[Sample, str, str, str]:
    """A sample that starts with two images, made as one batch, its loader, and the nodes that give them."""
    sample = Sample(name)
    loader = load(sample)
    chain = add_chain(sample, loader, "a red circle\na blue star", prompt_lines="one per line")
    first, second = (
        sample.add("ImageFromBatch", image=[chain.decode, 0], batch_index=k, length=1) for k in range(2)
    )  # fmt: skip
    preview = sample.add("PreviewImage", images=[chain.decode, 0])
    sample.column("Model", [loader], note=_EDIT_MODEL)
    sample.column(
        "Two images", [chain.generator], [chain.conditioner, chain.empty, chain.sampler],
        [chain.decode, first, second, preview],
        note=Note(
            "Every line of the prompt becomes an image (`prompt_lines`). **To use your own images** delete this group "
            "and add two Load Image nodes in its place.",
        ),
    )  # fmt: skip
    return sample, loader, first, second


def _edited(
    sample: Sample, loader: str, instruction: str, encoder: str, read: Note | None = None, what: Note | None = None,
    info: str = "",
) -> Chain:  # fmt: skip
    """The three columns of an edit. `info`: whose output of that name is shown, "encoder" or "generator"."""
    sizes = [sample.add("PreviewAny", source=[encoder, 3])] if info == "encoder" else []
    chain = add_chain(sample, loader, instruction, encoder)
    counts = [sample.add("PreviewAny", source=[chain.generator, 1])] if info == "generator" else []
    read = read or Note(
        "The image is encoded twice: as image tokens, which say what is in it, and as latents, which keep its details. "
        "A new prompt or seed does not encode it again."
    )
    what = what or Note(
        "Say in one sentence **what should change**. A new `seed` is another try. The tiny model can recolour, remove, "
        "replace or add a shape, and change the background."
    )
    sample.column("1. Encode the image", [encoder, *sizes], note=read)
    sample.column("2. Say what to change", [chain.generator, *counts], note=what)
    sample.column("3. Render", [chain.conditioner, chain.sampler], note=_RENDER)
    return chain


_TINY = (
    "The bundled tiny model makes images of up to four coloured shapes (circle, square, triangle, star, ring, cross), "
    "64 x 64 pixels.\n\n"
)
_SANA = (
    "and next to it a folder with `transformer/config.json` and `vae/config.json` of "
    "[SANA1.5](https://huggingface.co/Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers). "
)
_MODEL = Note(
    f"{_TINY}**For photographs** put a checkpoint into `ComfyUI/models/blip3o`, for example "
    "[BLIP3o-NEXT-GRPO-TexT-3B](https://huggingface.co/BLIP3o/BLIP3o-NEXT-GRPO-TexT-3B), "
    f"{_SANA}Press R, choose it here, set 1024 x 1024 and 30 steps, and bypass Upscale Image By.",
    height=250,
)
_EDIT_MODEL = Note(
    f"{_TINY}**For photographs** put "
    "[BLIP3o-NEXT-edit-VAE](https://huggingface.co/BLIP3o/BLIP3o-NEXT-edit-VAE) into `ComfyUI/models/blip3o`, "
    f"{_SANA}Press R, choose it here, set 30 steps, load an image of your own, and bypass Upscale Image By.",
    height=250,
)
_RENDER = Note(
    "Rendered from the tokens and from the original. Lower `cross_strength` or `noise_strength` to move away from the "
    "original. A new `noise_seed` renders the same tokens in another way.",
)
_LARGER = Note("64 pixels are small on a screen. Upscale Image By only enlarges the image.", height=80)

SAMPLES = [
    make()
    for make in (
        text_to_image, preview, edit, masked_edit, two_references, wide_edit, edit_another_models_output,
        keep_unchanged,
    )
]  # fmt: skip
