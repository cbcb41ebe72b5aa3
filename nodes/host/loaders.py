"""What the loader nodes call."""

import logging

from ...blip3o_core.checkpoint import open_checkpoint
from ...blip3o_core.checkpoint.diffusion_folder import describe_source
from .image_tokenizer import load_image_tokenizer
from .language import load_language
from .model import load_diffusion
from .quantised import PLAIN
from .vae import load_vae


def load(folder: str, diffusion: str | None, dtype: str, lm_weights: str = PLAIN):
    """The parts of one checkpoint: (language model, diffusion patcher, VAE, image tokenizer or None).

    `lm_weights`: see `quantised`.
    """
    checkpoint = open_checkpoint(folder, diffusion)
    _say(f"Diffusion configuration: {describe_source(checkpoint.folder, checkpoint.diffusion_folder)}")
    language = load_language(folder, diffusion, dtype, lm_weights, checkpoint=checkpoint)
    vae = load_vae(folder, diffusion, dtype, checkpoint=checkpoint)
    model = load_diffusion(folder, diffusion, dtype, vae, checkpoint=checkpoint)
    return language, model, vae, load_image_tokenizer(folder, diffusion, dtype, checkpoint=checkpoint)


def _say(line: str) -> None:
    """On the node, and in the log."""
    from server import PromptServer

    logging.getLogger(__name__).info(line)
    server = getattr(PromptServer, "instance", None)
    if server is not None and server.last_node_id is not None:
        server.send_progress_text(line, server.last_node_id)
