"""DC-AE as a native VAE: diffusers' AutoencoderDC, called by the host's own encode, decode and tiling."""

from functools import partial

import comfy.model_management as mm
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from diffusers import AutoencoderDC

from ...blip3o_core import memory
from ...blip3o_core.checkpoint import open_checkpoint
from ...blip3o_core.checks import require_finite
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.models.autoencoder import compression
from .colours import learn_from
from .offload import NAMED, SUPPORTED, manage, supported, swap_leaves

_STAND_IN = {
    "embed_dim": 1,
    "ddconfig": {
        **{"double_z": True, "z_channels": 1, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32},
        **{"ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
    },
}


class HostAutoencoder(AutoencoderDC):
    """AutoencoderDC with plain tensors in and out. Made by swapping the class of a loaded network."""

    device = None  # the host sets it; in diffusers it is a read-only property

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / factor, W / factor), unscaled."""
        self._require_memory(x.shape[-2] * x.shape[-1], x)
        return super().encode(x, return_dict=False)[0]

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) unscaled -> (B, 3, h * factor, w * factor) in [-1, 1]."""
        self._require_memory(z.shape[-2] * z.shape[-1] * compression(self.config) ** 2, z)
        pixels = super().decode(z, return_dict=False)[0]
        require_finite(
            pixels,
            f"The image that the VAE decoded in {z.dtype}",
            "Load the checkpoint in fp32. If that does not help, the latent or the weights are damaged.",
        )
        return pixels

    def _require_memory(self, pixels: int, like: torch.Tensor) -> None:
        """On a CPU, where asking for too much can end the process: the exception after which the host takes tiles."""
        if not mm.is_device_cpu(like.device):
            return
        if memory.vae_bytes(self.config, pixels, like.dtype) * len(like) > memory.free_bytes(like.device):
            raise mm.OOM_EXCEPTION(f"{pixels} pixels at once do not fit into the memory")


class DeepCompressionVAE(comfy.sd.VAE):
    """The host's VAE with the network, sizes and memory estimates of DC-AE."""

    def __init__(self, network: HostAutoencoder, device, offload, dtype: torch.dtype, recipe, disable_dynamic=False):
        # The host's defaults. Without weights it would warn that this VAE is not initialised, so it gets those of a
        # small network, which is replaced below.
        stand_in = AutoencoderKL(**_STAND_IN).state_dict()
        super().__init__(stand_in, device=torch.device("cpu"), config={"params": _STAND_IN}, dtype=torch.float32)
        self.first_stage_model = network
        self.latent_channels = network.config.latent_channels
        self.downscale_ratio = self.upscale_ratio = factor = compression(network.config)
        # These functions must not keep `self` alive: the host frees a model when its last reference is gone.
        needed = partial(memory.vae_bytes, network.config)
        self.memory_used_encode = lambda shape, dtype: needed(shape[2] * shape[3], dtype)
        self.memory_used_decode = lambda shape, dtype: needed(shape[2] * shape[3] * factor**2, dtype)
        self.device, self.vae_dtype, self.output_device = device, dtype, mm.intermediate_device()
        self.patcher = manage(network, device, offload, recipe, disable_dynamic)
        self.size = None  # of the stand-in
        self.model_size()

    def decode(self, samples_in, *options, **more):
        images = super().decode(self._latent(samples_in), *options, **more)
        learn_from(samples_in, images)
        return images

    def decode_tiled(self, samples, *tiles, **more):
        images = super().decode_tiled(self._latent(samples), *tiles, **more)
        learn_from(samples, images)
        return images

    def encode(self, pixel_samples):
        return super().encode(self._pixels(pixel_samples))

    def encode_tiled(self, pixel_samples, *tiles, **more):
        return super().encode_tiled(self._pixels(pixel_samples), *tiles, **more)

    def _latent(self, latent) -> torch.Tensor:
        """`latent`, if this VAE can decode it: (B, C, h, w). Of a video ComfyUI would take the first frame."""
        shape = list(getattr(latent, "shape", ()))
        if len(shape) != 4 or 0 in shape or shape[1] != self.latent_channels:
            needed = f"a latent with {self.latent_channels} channels: (batch, {self.latent_channels}, height, width)"
            hint = (
                "the latent output of BLIP3o Diffusion Sampler, and check that the sampler is not bypassed: an empty "
                "latent, or one from a different model, cannot be decoded"
            )
            raise _unfit(latent, "decode", needed, hint)
        return latent

    def _pixels(self, pixels) -> torch.Tensor:
        """`pixels`, if this VAE can encode them: finite (B, H, W, 3 or more), at least one cell large."""
        shape, cell = list(getattr(pixels, "shape", ())), self.downscale_ratio
        if len(shape) != 4 or not shape[0] or shape[3] < 3 or min(shape[1:3]) < cell:
            needed = f"images of shape (batch, height, width, 3), at least {cell} x {cell} pixels"
            raise _unfit(pixels, "encode", needed, "Load Image or another node that gives such images")
        require_finite(pixels, "The image to encode", "Make it again, or load another one.")
        return pixels

    def decode_tiled_(self, samples, tile_x=16, tile_y=16, overlap=4):
        """What the host calls after running out of memory. Its default tiles are meant for cells of 8 pixels.

        The host's widest pass doubles one side, so with 16 every tile is at most half of a 32 x 32 latent.
        """
        return super().decode_tiled_(samples, tile_x, tile_y, overlap)


def _unfit(value, verb: str, needed: str, hint: str) -> Blip3oError:
    found = f"shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
    return Blip3oError(f"This VAE can {verb} {needed}, but what is connected has {found}. Connect {hint}.")


def load_vae(folder, diffusion, choice, disable_dynamic=False, checkpoint=None) -> DeepCompressionVAE:
    """The VAE of the checkpoint in `folder`. `choice`: the loader's dtype widget. `checkpoint`: already opened."""
    checkpoint = checkpoint or open_checkpoint(folder, diffusion)
    device = mm.vae_device()
    dtype = NAMED.get(choice) or supported(mm.vae_dtype(device, SUPPORTED), device)
    network = checkpoint.load_autoencoder(dtype)
    network.__class__ = HostAutoencoder
    swap_leaves(network)
    recipe = (load_vae_patcher, (folder, diffusion, choice))
    return DeepCompressionVAE(network, device, mm.vae_offload_device(), dtype, recipe, disable_dynamic)


def load_vae_patcher(*arguments, disable_dynamic=False):
    """What the host calls to build the VAE's patcher again, see `offload.manage`."""
    return load_vae(*arguments, disable_dynamic=disable_dynamic).patcher
