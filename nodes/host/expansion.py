"""The graphs that the one-click nodes stand for, made of nodes that ComfyUI runs and caches one by one."""

from comfy_execution.graph_utils import GraphBuilder

from ...blip3o_core.checkpoint import open_checkpoint
from . import folders


class Graph:
    """A graph from a checkpoint to an image. Values are those of the nodes' own inputs, links are [id, output]."""

    def __init__(self, checkpoint: str):
        self._builder = GraphBuilder()
        self._load = self._node("load", "BLIP3oLoader", checkpoint=checkpoint, dtype="auto")

    def _node(self, id: str, kind: str, **inputs):
        return self._builder.node(kind, id=id, **{name: value for name, value in inputs.items() if value is not None})

    def reference(self, images: list, mask):
        """The images to edit; gives (reference, latent of the first)."""
        slots = {f"images.image_{number}": image for number, image in enumerate(images, 1)}
        encode = self._node(
            "encode", "BLIP3oEditReferenceEncoder", image_tokenizer=self._load.out(3), vae=self._load.out(2),
            fit="stretch", mask=mask, **slots,
        )  # fmt: skip
        return encode.out(0), encode.out(2)

    def empty(self, width: int, height: int):
        return self._node("empty", "EmptyLatentImage", width=width, height=height, batch_size=1).out(0)

    def tokens(self, prompt: str, seed: int, batch_size: int = 1, reference=None):
        sampling = {"sampling": "sample", "sampling.top_k": 1200, "sampling.top_p": 0.95, "sampling.temperature": 1.0}
        return self._node(
            "generate", "BLIP3oTokenGenerator", lm=self._load.out(0), prompt=prompt, seed=seed, batch_size=batch_size,
            reference=reference, **sampling,
        ).out(0)  # fmt: skip

    def image(self, tokens, latent, reference=None, **settings):
        """`settings`: noise_seed, steps and guidance of the sampler."""
        condition = self._node(
            "condition", "BLIP3oHiddenStateConditioner", lm=self._load.out(0), tokens=tokens, reference=reference
        )
        sample = self._node(
            "sample", "BLIP3oDiffusionSampler", model=self._load.out(1), positive=condition.out(0),
            negative=condition.out(1), latent_image=latent, denoise=1.0, **settings,
        )  # fmt: skip
        return self._node("decode", "VAEDecode", samples=sample.out(0), vae=self._load.out(2)).out(0)

    def masked(self, edited, original, mask):
        return self._node(
            "masked", "BLIP3oMaskedEdit", edited=edited, original=original, mask=mask, feather=0
        ).out(0)  # fmt: skip

    def finalize(self) -> dict:
        return self._builder.finalize()


def size_of(checkpoint: str, width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels; for 0 what the checkpoint was trained at."""
    if width and height:
        return width, height
    trained = open_checkpoint(folders.resolve(checkpoint), None).trained_side
    return width or trained, height or trained
