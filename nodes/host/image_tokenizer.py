"""The image tokenizer as a part, from a checkpoint or from its own published file.

It runs on the host's main device, as the language model does.
"""

import comfy.model_management as mm

from ...blip3o_core.checkpoint import IMAGE_TOKENIZER, open_checkpoint
from ...blip3o_core.checkpoint.tatok_file import open_tatok
from ...blip3o_core.editing.references import Framing, References, encode_references
from ...blip3o_core.prompts.vocabulary import CodesId
from . import notes
from .offload import NAMED, SUPPORTED, dtypes, manage, supported, swap_leaves
from .part import Part

PUBLISHED_SIDE = 1024


class ImageTokenizerPart(Part):
    """What travels as BLIP3O_TATOK."""

    def __init__(self, patcher, dtype, codes_id: CodesId, side: int, patch: int = 1, is_bundled: bool = False):
        """`side`: width and height in pixels of the images the checkpoint generates; `patch`: its transformer's."""
        super().__init__(patcher, dtype)
        self.codes_id, self.side, self.patch, self.is_bundled = codes_id, side, patch, is_bundled

    def references(self, vae, images: list, fit: str, resolution: int) -> References:
        """PIL images -> References. `vae`: the host's. `resolution` 0: what the checkpoint was trained on."""
        notes.tell(notes.of_photographs(images) if self.is_bundled else [])
        config = self.network.config
        width = config.intermediate_size + 8 * config.hidden_size
        with self.loaded(4 * config.num_tokens * width * self.dtype.itemsize) as device:
            framing = Framing(fit, resolution or self.side, vae.spacial_compression_encode() * self.patch)
            return encode_references(self.network, vae.encode, images, framing, self.codes_id, device)


def load_image_tokenizer(
    folder, diffusion, choice, disable_dynamic=False, checkpoint=None
) -> ImageTokenizerPart | None:
    """None when the checkpoint has no image tokenizer: text to image works without."""
    checkpoint = checkpoint or open_checkpoint(folder, diffusion)
    if checkpoint.image_tokenizer_config is None:
        return None
    device = mm.get_torch_device()
    # transformers' SigLIP casts pixels to the dtype of its weights, so these are kept in the dtype to compute in.
    _, compute = dtypes(choice, checkpoint.parts[IMAGE_TOKENIZER], device)
    network = swap_leaves(checkpoint.load_image_tokenizer(compute))
    recipe = (load_image_tokenizer_patcher, (folder, diffusion, choice))
    patcher = manage(network, device, mm.unet_offload_device(), recipe, disable_dynamic)
    patch = checkpoint.transformer_config.get("patch_size", 1)
    is_bundled = notes.is_bundled(folder)
    return ImageTokenizerPart(patcher, compute, checkpoint.codes_id, checkpoint.trained_side, patch, is_bundled)


def load_tatok_file(path, choice, disable_dynamic=False) -> ImageTokenizerPart:
    """From the published file alone; image size and latents are those of the published model."""
    file, device = open_tatok(path), mm.get_torch_device()
    compute = NAMED.get(choice) or supported(mm.unet_dtype(device, supported_dtypes=SUPPORTED), device)
    network = swap_leaves(file.load(compute))
    recipe = (load_tatok_file_patcher, (path, choice))
    patcher = manage(network, device, mm.unet_offload_device(), recipe, disable_dynamic)
    return ImageTokenizerPart(patcher, compute, file.codes_id, PUBLISHED_SIDE)


def load_tatok_file_patcher(*arguments, disable_dynamic=False):
    return load_tatok_file(*arguments, disable_dynamic=disable_dynamic).patcher


def load_image_tokenizer_patcher(*arguments, disable_dynamic=False):
    return load_image_tokenizer(*arguments, disable_dynamic=disable_dynamic).patcher
