"""The graphs behind `workflows/*.json`, in API format, each with its columns and the notes on top of them."""

from dataclasses import dataclass, field

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.tiny.evaluation import GUIDANCE, STEPS

SIDE = 64  # pixels on a side of what the bundled model draws
ENLARGE = 8
PREVIEW_STEPS = 4
START = "a red circle left of a blue star"
RECOLOUR = "change the blue star to green"
OURS, STOCK = "BLIP3oDiffusionSampler", "KSampler"
# Of nodes that will show a picture or a text, which the frontend makes no room for.
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
class Line:
    """Nodes from a prompt to a picture, by id."""

    generator: str
    conditioner: str
    empty: str | None
    sampler: str
    decode: str


def load(sample: Sample) -> str:
    return sample.add("BLIP3oLoader", checkpoint=NAME, dtype="auto")


def draw(sample: Sample, loader: str, prompt: str, encoder: str | None = None, sampler=OURS, **widgets) -> Line:
    """From `prompt` to a picture; with an `encoder`, a reference node, an edit of its pictures."""
    reference = {} if encoder is None else {"reference": [encoder, 0]}
    generator = sample.add(
        "BLIP3oTokenGenerator", lm=[loader, 0], prompt=prompt, seed=1, batch_size=1,
        **{"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0},
        **reference, **widgets,
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
    return Line(generator, conditioner, empty, rendered, decode)


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
    line = draw(sample, loader, START)
    sample.column("Model", [loader], note=_MODEL)
    sample.column(
        "1. Write image tokens", [line.generator],
        note=Note(
            "The language model decides **what** is in the picture. Another `seed` gives another picture. "
            "This is the slow part, and it runs again only when something on this node changes."
        ),
    )  # fmt: skip
    sample.column("2. Condition", [line.conditioner, line.empty])
    sample.column(
        "3. Render", [line.sampler],
        note=Note(
            "The diffusion transformer decides **how** it looks. Change `noise_seed`, `steps`, `guidance` or the size: "
            "the tokens are not written again. KSampler (euler, simple, 20 steps) fits on the same wires."
        ),
    )  # fmt: skip
    sample.column(
        "Picture", [line.decode, *save(sample, line.decode)],
        note=Note("64 pixels are small on a screen: Upscale Image By only makes them larger.", height=80),
    )  # fmt: skip
    return sample


def preview() -> Sample:
    sample = Sample("preview")
    loader = load(sample)
    line = draw(sample, loader, START)
    inputs = dict(sample.prompt[line.sampler]["inputs"])
    quick = sample.add(OURS, **{**inputs, "steps": PREVIEW_STEPS})
    quick_picture = sample.add("VAEDecode", samples=[quick, 0], vae=[loader, 2])
    larger = sample.add("ImageScaleBy", image=[quick_picture, 0], upscale_method="bicubic", scale_by=float(ENLARGE))
    shown = sample.add("PreviewImage", images=[larger, 0])
    sample.column("Model", [loader], note=_MODEL)
    sample.column(
        "1. Write image tokens", [line.generator],
        note=Note("Change `seed` until the preview shows the picture you want. Both renderings are of these tokens."),
    )  # fmt: skip
    sample.column("2. Condition", [line.conditioner, line.empty])
    sample.column(
        "3. Preview", [quick, quick_picture, larger, shown],
        note=Note("Four steps: what will be in the picture, in a fifth of the time. Same `noise_seed` as beside it."),
    )  # fmt: skip
    sample.column(
        "4. Render", [line.sampler, line.decode, *save(sample, line.decode)],
        note=Note(
            "All steps. Mute this branch (Ctrl+M) while you look for a seed; then unmute it and queue again: no token "
            "is written again."
        ),
    )  # fmt: skip
    return sample


def edit() -> Sample:
    sample, loader, start = _started("edit")
    encoder = encode(sample, loader, start)
    line = _edited(sample, loader, RECOLOUR, encoder)
    sample.column("Picture", [line.decode, *save(sample, line.decode)], note=_LARGER)
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
            "White may change, black stays. Here it is the right half, where the star is.\n\n"
            "With Load Image, paint the mask instead: right-click the picture, **Open in Mask Editor**, and connect "
            "its MASK in place of this one.",
            height=170,
        ),
    )  # fmt: skip
    encoder = encode(sample, loader, start, mask=[mask, 0])
    line = _edited(sample, loader, RECOLOUR, encoder)
    whole = sample.add(
        "BLIP3oMaskedEdit", original=[start, 0], edited=[line.decode, 0], mask=[mask, 0], feather=0
    )  # fmt: skip
    sample.column(
        "Picture", [line.decode, whole, *save(sample, whole)],
        note=Note(
            "BLIP3o Masked Edit puts the edit into the original. Black in the mask: **every pixel is the original's**. "
            "`feather` softens the edge, on the white side only.\n\nUpscale Image By only makes it larger.",
            height=150,
        ),
    )  # fmt: skip
    return sample


def two_references() -> Sample:
    sample, loader, first, second = _started_twice("two_references")
    encoder = encode(sample, loader, first, second)
    line = _edited(
        sample, loader, "put the star of image 2 into image 1", encoder,
        Note(
            "Say **image 1**, **image 2** or **the first image**: numbers follow the sockets. A new socket appears "
            "when the last one is taken, up to eight.\n\n"
            "The result is as large as image 1.",
            height=150,
        ),
        Note(
            "Each reference takes its share of the prompt: 64 tokens of 512 with the tiny model, 729 with the "
            "published ones. After a run you read it below. What does not fit is refused, never cut.\n\n"
            "The tiny model met only **one** reference in training, so do not expect it to combine two. "
            "Composition is what the published edit checkpoints are for.",
            height=190,
        ),
        info=True,
    )  # fmt: skip
    sample.column("Picture", [line.decode, *save(sample, line.decode)], note=_LARGER)
    return sample


def wide_edit() -> Sample:
    sample, loader, first, second = _started_twice("wide_edit")
    wide = sample.add("ImageStitch", image1=[first, 0], image2=[second, 0], direction="right", match_image_size=True,
                      spacing_width=0, spacing_color="white")  # fmt: skip
    preview = sample.add("PreviewImage", images=[wide, 0])
    sample.column(
        "Side by side", [wide, preview], note=Note("A picture twice as wide as high: 128 x 64 pixels.", height=80)
    )  # fmt: skip
    encoder = encode(sample, loader, wide)
    info = sample.add("PreviewAny", source=[encoder, 3])
    line = _edited(
        sample, loader, RECOLOUR, encoder,
        Note(
            "The language model sees a square, so the picture is squeezed into one; `fit` offers other ways. The "
            "diffusion transformer sees the whole picture at its own aspect, at about as many pixels as it draws.\n\n"
            "After a run the numbers stand below.",
            height=180,
        ),
        below=[info],
    )  # fmt: skip
    sample.column(
        "Picture", [line.decode, *save(sample, line.decode)],
        note=Note("The edit is wide, too: the encoder's `latent` gives it its size. For more pixels raise "
                  "`resolution` on the encoder. Upscale Image By only enlarges.", height=130),
    )  # fmt: skip
    return sample


def edit_another_models_output() -> Sample:
    sample = Sample("edit_another_models_output")
    stand_in = load(sample)
    line = draw(sample, stand_in, START, sampler=STOCK)
    preview = sample.add("PreviewImage", images=[line.decode, 0])
    sample.column(
        "Any other model", [stand_in, line.generator], [line.conditioner, line.empty, line.sampler],
        [line.decode, preview],
        note=Note(
            "This group stands for **any model you like**: SDXL, Flux, Qwen-Image, a frame of a video. All that leaves "
            "it is an IMAGE.\n\nSo that the workflow runs at once, the tiny model is the stand-in here, rendered by "
            "the stock KSampler. Delete the group, put yours there and connect its IMAGE to `image_1`.",
            height=190,
        ),
    )  # fmt: skip
    loader = load(sample)
    sample.column("Model that edits", [loader], note=_EDIT_MODEL)
    encoder = encode(sample, loader, line.decode)
    edited = _edited(sample, loader, RECOLOUR, encoder)
    sample.column("Picture", [edited.decode, *save(sample, edited.decode)], note=_LARGER)
    return sample


def keep_unchanged() -> Sample:
    sample, loader, start = _started("keep_unchanged")
    encoder = encode(sample, loader, start)
    line = _edited(
        sample, loader, "Keep the image unchanged.", encoder,
        what=Note("The sentence the authors trained with. Nothing should happen.", height=80),
    )  # fmt: skip
    both = sample.add("ImageStitch", image1=[start, 0], image2=[line.decode, 0], direction="right",
                      match_image_size=True, spacing_width=2, spacing_color="black")  # fmt: skip
    sample.column(
        "Before | after", [line.decode, both, *save(sample, both)],
        note=Note(
            "A self-test: left the picture before, right after. The more alike they are, the more an edit will leave "
            "alone. Run it with a new checkpoint before you trust it with a photograph.",
            height=130,
        ),
    )  # fmt: skip
    return sample


def _started(name: str) -> tuple[Sample, str, str]:
    """A sample with a picture to edit, drawn by the model; the loader and the node that gives the picture."""
    sample = Sample(name)
    loader = load(sample)
    line = draw(sample, loader, START)
    preview = sample.add("PreviewImage", images=[line.decode, 0])
    sample.column("Model", [loader], note=_EDIT_MODEL)
    sample.column(
        "A picture to edit", [line.generator], [line.conditioner, line.empty, line.sampler], [line.decode, preview],
        note=Note(
            "The model draws a picture first, so that there is something to edit. **For a picture of your own** delete "
            "this group and put Load Image in its place.",
        ),
    )  # fmt: skip
    return sample, loader, line.decode


def _started_twice(name: str) -> tuple[Sample, str, str, str]:
    """Two pictures, drawn as one batch."""
    sample = Sample(name)
    loader = load(sample)
    line = draw(sample, loader, "a red circle\na blue star", prompt_lines="one per line")
    first, second = (
        sample.add("ImageFromBatch", image=[line.decode, 0], batch_index=k, length=1) for k in range(2)
    )  # fmt: skip
    preview = sample.add("PreviewImage", images=[line.decode, 0])
    sample.column("Model", [loader], note=_EDIT_MODEL)
    sample.column(
        "Two pictures", [line.generator], [line.conditioner, line.empty, line.sampler],
        [line.decode, first, second, preview],
        note=Note(
            "Every line of the prompt is a picture of its own (`prompt_lines`). **For pictures of your own** delete "
            "this group and put two Load Image nodes in its place.",
        ),
    )  # fmt: skip
    return sample, loader, first, second


def _edited(
    sample: Sample, loader: str, instruction: str, encoder: str, read: Note | None = None, what: Note | None = None,
    below: list[str] = (), info: bool = False,
) -> Line:  # fmt: skip
    """The three columns of an edit. `below`: nodes under the encoder; `info`: the generator's is shown."""
    line = draw(sample, loader, instruction, encoder)
    told = [sample.add("PreviewAny", source=[line.generator, 1])] if info else []
    read = read or Note(
        "The picture goes in twice: as image tokens, which say what is in it, and as latents, which keep its details. "
        "Done once: a new instruction or seed does not repeat it."
    )
    what = what or Note(
        "Say in a sentence **what should change**. Another `seed` is another try. The tiny model can recolour, remove, "
        "replace or add a shape, and change the background."
    )
    sample.column("1. Read the picture", [encoder, *below], note=read)
    sample.column("2. Say what to change", [line.generator, *told], note=what)
    sample.column("3. Render", [line.conditioner, line.sampler], note=_RENDER)
    return line


_MODEL = Note(
    "The bundled tiny model draws up to four shapes (circle, square, triangle, star, ring, cross) in eight "
    "colours, 64 pixels to the side.\n\n"
    "For photographs put a BLIP3o-NEXT checkpoint folder into `ComfyUI/models/blip3o`, for example "
    "[BLIP3o-NEXT-GRPO-TexT-3B](https://huggingface.co/BLIP3o/BLIP3o-NEXT-GRPO-TexT-3B), and beside it a "
    "folder with `transformer/config.json` and `vae/config.json` of "
    "[SANA1.5](https://huggingface.co/Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers), "
    "which say how the diffusion transformer is built. Choose it here, set 1024 x 1024 and 30 steps, and "
    "bypass Upscale Image By.",
    height=250,
)
_EDIT_MODEL = Note(
    "The bundled tiny model edits pictures of coloured shapes, 64 pixels to the side.\n\n"
    "For photographs put [BLIP3o-NEXT-edit-VAE](https://huggingface.co/BLIP3o/BLIP3o-NEXT-edit-VAE) into "
    "`ComfyUI/models/blip3o`, and beside it a folder with `transformer/config.json` and `vae/config.json` of "
    "[SANA1.5](https://huggingface.co/Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers). Choose it here, "
    "set 30 steps, load a picture of your own, and bypass Upscale Image By.",
    height=250,
)
_RENDER = Note(
    "Drawn from the tokens and with an eye on the original. Less `cross_strength` or `noise_strength` frees the "
    "picture from it; `noise_seed` renders the same idea anew.",
)
_LARGER = Note("64 pixels are small on a screen: Upscale Image By only makes them larger.", height=80)

SAMPLES = [
    make()
    for make in (
        text_to_image, preview, edit, masked_edit, two_references, wide_edit, edit_another_models_output,
        keep_unchanged,
    )
]  # fmt: skip
