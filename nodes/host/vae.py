"""DC-AE as a native VAE: diffusers' AutoencoderDC behind the host's own encode, decode and tiling."""

import logging
from contextlib import contextmanager
from functools import partial

import comfy.model_management as mm
import comfy.sd
import torch
from diffusers import AutoencoderDC

from ...blip3o_core import memory
from ...blip3o_core.checkpoint import open_checkpoint
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.models.autoencoder import compression
from .offload import NAMED, SUPPORTED, manage, supported, swap_leaves


class HostAutoencoder(AutoencoderDC):
    """AutoencoderDC with plain tensors in and out. Instances are made by swapping the class of a loaded one."""

    device = None  # the host writes here; diffusers' is a read-only property

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / factor, W / factor), unscaled."""
        return super().encode(x, return_dict=False)[0]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) unscaled -> (B, 3, h * factor, w * factor) in [-1, 1]."""
        pixels = super().decode(z, return_dict=False)[0]
        if not bool(torch.isfinite(pixels).all()):
            raise Blip3oError(
                f"The autoencoder computed values that are not finite in {z.dtype}. Load it in fp32; if that does not "
                "help, its weights are damaged."
            )
        return pixels


class DeepCompressionVAE(comfy.sd.VAE):
    def __init__(self, network: HostAutoencoder, device, offload, dtype: torch.dtype, recipe, disable_dynamic=False):
        with _without_empty_vae_warning():
            super().__init__(sd={})  # every default of the host's; the network comes from us
        self.first_stage_model = network
        self.latent_channels = network.config.latent_channels
        self.downscale_ratio = self.upscale_ratio = factor = compression(network.config)
        # The functions must not hold `self`: the host frees a model when its last reference goes.
        needed = partial(memory.vae_bytes, network.config)
        self.memory_used_encode = lambda shape, dtype: needed(shape[2] * shape[3], dtype)
        self.memory_used_decode = lambda shape, dtype: needed(shape[2] * shape[3] * factor**2, dtype)
        self.device, self.vae_dtype, self.output_device = device, dtype, mm.intermediate_device()
        self.patcher = manage(network, device, offload, recipe, disable_dynamic)
        self.model_size()

    def decode_tiled_(self, samples, tile_x=16, tile_y=16, overlap=4):
        """The host falls back to its defaults after running out of memory; they are for cells of 8 pixels.

        The host's widest pass doubles a side, so 16 keeps every tile to half of a 32 x 32 latent.
        """
        return super().decode_tiled_(samples, tile_x, tile_y, overlap)


@contextmanager
def _without_empty_vae_warning():
    """The host warns that an empty VAE has no weights; a creator would read that as a failure."""

    def other(record: logging.LogRecord) -> bool:
        return "No VAE weights detected" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


def load_vae(folder, diffusion, choice, disable_dynamic=False, checkpoint=None) -> DeepCompressionVAE:
    checkpoint = checkpoint or open_checkpoint(folder, diffusion)
    device = mm.vae_device()
    dtype = NAMED.get(choice) or supported(mm.vae_dtype(device, SUPPORTED), device)
    network = checkpoint.load_autoencoder(dtype)
    network.__class__ = HostAutoencoder
    swap_leaves(network)
    recipe = (load_vae_patcher, (folder, diffusion, choice))
    return DeepCompressionVAE(network, device, mm.vae_offload_device(), dtype, recipe, disable_dynamic)


def load_vae_patcher(*arguments, disable_dynamic=False):
    return load_vae(*arguments, disable_dynamic=disable_dynamic).patcher
