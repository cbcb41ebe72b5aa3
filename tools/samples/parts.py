"""What samples are put together from: nodes in API format, columns, notes, and what App mode shows."""

from dataclasses import dataclass, field

from blip3o_core.checkpoint.bundled import NAME
from blip3o_core.tiny.evaluation import GUIDANCE, STEPS
from tools.comfyui.graphs import SIDE

ENLARGE = 512 // SIDE
WIDE = SIDE * 3 // 2, SIDE * 3 // 4  # what the bundled model learned as "a wide image"
SAMPLER = "BLIP3oDiffusionSampler"
SAMPLING = {"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0}
NOTE = "note"  # its place among the ids of a column

# What the bundled model gets right with nearly every seed; tests/host/test_samples_are_right.py judges it.
START = "a red circle right of a blue star"
RING = "a yellow ring right of a blue star"
TO_EDIT = "a red circle left of a blue square"
EDIT = "make the background yellow"
TO_BRUSH = "a red circle left of a blue triangle on a yellow background"
BRUSHED = "a red circle left of a green square on a yellow background"
TEXTURED = "a red circle left of a blue square on a checked yellow background"
TO_KEEP = "a striped red circle left of a blue square on a dotted grey background"
TO_WIDEN = "a wide image of a red circle left of a blue square"
TO_COMPOSE = "a striped red circle left of a green square\na purple triangle left of a dotted blue star"
COMPOSED = "the circle of image 1 and the star of image 2 on a yellow background"
WORD = 'the word "SUN" in yellow on a blue background'


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
    """A workflow to write, for the bundled model."""

    name: str
    note: str = ""
    trains: bool = False  # and so takes much longer than the others
    note_height: int = 330
    prompt: dict[str, dict] = field(default_factory=dict)
    columns: list[Column] = field(default_factory=list)
    subgraphs: dict[str, Subgraph] = field(default_factory=dict)
    answers: dict[str, dict] = field(default_factory=dict)  # what a person sets between two runs, by id
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
HEIGHTS = {
    SAMPLER: 480, "SaveImage": 520, "PreviewImage": 300, "PreviewAny": 150, "BLIP3oViewTokens": 310,
    "BLIP3oResampleTokens": 780, "BLIP3oTrainLoRA": 740, "BLIP3oCurateImages": 540, "BLIP3oTrainLoRAOnImages": 480,
}  # fmt: skip
# These grow by a text or an image when they run, or are higher in Nodes 2.0: what the higher renderer needs.
ROOM = {
    "BLIP3oLoader": 262, "BLIP3oTokenGenerator": 810, "BLIP3oEditReferenceEncoder": 274, "BLIP3oMaskedEdit": 126,
    "EmptyLatentImage": 118, "VAEDecode": 54, "ImageScaleBy": 90, "BLIP3oSaveTokens": 130, "BLIP3oCompareTokens": 130,
    "BLIP3oTextToImage": 730, "BLIP3oImageEdit": 710, "BLIP3oChooseDraft": 580, "BLIP3oSpliceTokens": 80,
    "BLIP3oResampleTokens": 860, "LatentFromBatch": 90, "LatentUpscaleBy": 90, "BLIP3oHiddenStateConditioner": 180,
    "BLIP3oScoreImages": 380, "BLIP3oPickBest": 150, "BLIP3oTrainLoRA": 860, "BLIP3oLoraLoader": 160,
    "BLIP3oCurateImages": 580, "BLIP3oTrainLoRAOnImages": 650, "BLIP3oEvaluationGrid": 300,
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
    return sample.add("BLIP3oLoader", checkpoint=NAME, dtype="auto")


def add_chain(
    sample: Sample, loader: str, prompt: str, encoder: str | None = None, wide=False,
) -> Chain:  # fmt: skip
    """Adds the nodes from `prompt` to an image; with an `encoder` (a reference node), an edit of its images."""
    reference = {} if encoder is None else {"reference": [encoder, 0]}
    generator = sample.add(
        "BLIP3oTokenGenerator", lm=[loader, 0], prompt=prompt, seed=1, batch_size=1,
        prompt_lines="one per line" if "\n" in prompt else "one prompt",
        **SAMPLING, **reference,
    )  # fmt: skip
    return Chain(generator, *add_render(sample, loader, generator, encoder, wide))


def add_render(
    sample: Sample, loader: str, tokens: str, encoder: str | None = None, wide=False,
) -> tuple[str, str | None, str, str]:  # fmt: skip
    """Adds the nodes that render what node `tokens` gives first -> conditioner, empty latent, sampler, decoder."""
    reference = {} if encoder is None else {"reference": [encoder, 0]}
    conditioner = sample.add("BLIP3oHiddenStateConditioner", lm=[loader, 0], tokens=[tokens, 0], **reference)
    size = dict(zip(("width", "height"), WIDE if wide else (SIDE, SIDE), strict=True))
    empty = None if encoder else sample.add("EmptyLatentImage", **size, batch_size=1)
    wires = {
        "model": [loader, 1], "positive": [conditioner, 0], "negative": [conditioner, 1],
        "latent_image": [encoder, 2] if encoder else [empty, 0], "steps": STEPS, "denoise": 1.0,
    }  # fmt: skip
    rendered = sample.add(SAMPLER, **wires, noise_seed=1, guidance=GUIDANCE)
    decode = sample.add("VAEDecode", samples=[rendered, 0], vae=[loader, 2])
    return conditioner, empty, rendered, decode


def enlarge(sample: Sample, image: str) -> str:
    """The bundled model's are a postage stamp on a screen."""
    return sample.add("ImageScaleBy", image=[image, 0], upscale_method="bicubic", scale_by=float(ENLARGE))


def save(sample: Sample, image: str) -> list[str]:
    larger = enlarge(sample, image)
    return [larger, sample.add("SaveImage", images=[larger, 0], filename_prefix="BLIP3o")]


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


def start_image(
    sample: Sample, loader: str, title: str = "An image to edit", prompt: str = TO_EDIT, wide=False,
) -> tuple[str, str]:  # fmt: skip
    """Adds the subgraph that makes an image to edit -> the nodes that give it and show it."""
    chain = add_chain(sample, loader, prompt, wide=wide)
    larger = enlarge(sample, chain.decode)
    shown = sample.add("PreviewImage", images=[larger, 0])
    sample.subgraphs[title] = Subgraph([*chain.ids, larger], [(chain.generator, "prompt")], ["image", "to see"])
    sample.heights[title] = 230
    return chain.decode, shown


def edit_columns(
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


PUBLISHED_AT = "https://huggingface.co/BLIP3o"
TINY = (
    "The bundled **tiny model** knows up to four coloured shapes (circle, square, triangle, star, ring, cross), "
    "striped, dotted, checked, shaded or grainy, and words of two to six letters in quotes, at "
    f"{SIDE} x {SIDE} pixels. Upscale Image By only enlarges its images.\n\n"
)
PHOTOGRAPHS = (
    "**For photographs**\n\n"
    f"Put the folder of [BLIP3o-NEXT-SFT-3B]({PUBLISHED_AT}/BLIP3o-NEXT-SFT-3B) here, press R and choose it in BLIP3o "
    "Loader:\n"
    "- ComfyUI\n  - models\n    - blip3o\n      - BLIP3o-NEXT-SFT-3B\n\n"
    "Set 1024 x 1024 and 30 steps, and bypass Upscale Image By (Ctrl+B).\n"
)
EDITS = (
    f"**For photographs** put [BLIP3o-NEXT-edit-VAE]({PUBLISHED_AT}/BLIP3o-NEXT-edit-VAE) here, press R and choose it "
    "in BLIP3o Loader:\n- ComfyUI\n  - models\n    - blip3o\n      - BLIP3o-NEXT-edit-VAE\n"
)
