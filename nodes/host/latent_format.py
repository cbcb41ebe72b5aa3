"""DC-AE latents for the host: channels, scale, pixels per cell, and a linear map to RGB for live previews."""

from functools import cached_property

import comfy.latent_formats

from ...blip3o_core.models.autoencoder import preview_factors


class DeepCompressionLatent(comfy.latent_formats.LatentFormat):
    """Latents between nodes are unscaled; the model sees them times `scale_factor`.

    One cell is `spacial_downscale_ratio` (the host's spelling) pixels wide.
    """

    latent_dimensions = 2

    def __init__(self, channels: int, factor: int, scale: float, vae=None):
        """`vae`: the VAE of the checkpoint, to which preview colours are fitted. None: no previews."""
        self.latent_channels, self.spacial_downscale_ratio, self.scale_factor = channels, factor, scale
        self._vae = vae

    @property
    def latent_rgb_factors(self):
        """(C, 3): scaled latents -> RGB in [-1, 1]."""
        return self._preview and self._preview[0]

    @property
    def latent_rgb_factors_bias(self):
        return self._preview and self._preview[1]

    @cached_property
    def _preview(self) -> tuple[list, list] | None:
        """Fitted for the first preview, not before: on a CPU that takes seconds at full size."""
        if self._vae is None:
            return None
        factors, bias = preview_factors(self._vae.encode, self.spacial_downscale_ratio, self.latent_channels)
        return (factors / self.scale_factor).tolist(), bias.tolist()
