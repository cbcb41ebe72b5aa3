"""What the loader nodes call."""

import logging

from ...blip3o_core.checkpoint import open_checkpoint
from ...blip3o_core.checkpoint.diffusion_folder import BUNDLED_CONFIGS, describe_source
from . import notes
from .image_tokenizer import load_image_tokenizer
from .language import load_language
from .model import load_diffusion
from .quantised import PLAIN
from .vae import load_vae

FALLBACK = "The checkpoint's folder has no diffusion configuration. The included one of SANA 1.5 fits and is used."


def load(folder: str, diffusion: str | None, dtype: str, lm_weights: str = PLAIN):
    """The parts of one checkpoint: (language model, diffusion patcher, VAE, image tokenizer or None).

    `lm_weights`: see `quantised`.
    """
    checkpoint = open_checkpoint(folder, diffusion)
    source = describe_source(checkpoint.folder, checkpoint.diffusion_folder)
    logging.getLogger(__name__).info("Diffusion configuration: %s", source)
    if checkpoint.diffusion_folder == BUNDLED_CONFIGS:
        notes.tell([FALLBACK], logging.INFO)
    elif not checkpoint.diffusion_folder.absolute().is_relative_to(checkpoint.folder.absolute()):
        # Of its own there is nothing to know.
        notes.tell([f"The diffusion configuration is {source}."], logging.INFO)
    language = load_language(folder, diffusion, dtype, lm_weights, checkpoint=checkpoint)
    vae = load_vae(folder, diffusion, dtype, checkpoint=checkpoint)
    model = load_diffusion(folder, diffusion, dtype, vae, checkpoint=checkpoint)
    return language, model, vae, load_image_tokenizer(folder, diffusion, dtype, checkpoint=checkpoint)
