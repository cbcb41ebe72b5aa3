"""How the host reads DC-AE latents: channels, scale, cell size, and a linear map to RGB for live previews."""

import comfy.latent_formats


class DeepCompressionLatent(comfy.latent_formats.LatentFormat):
    """Latents on the wire are unscaled; the model sees them times `scale_factor`.

    One cell is `spacial_downscale_ratio` pixels wide (the host's spelling).
    """

    latent_dimensions = 2

    def __init__(self, channels: int, factor: int, scale: float, preview: tuple[list, list] | None = None):
        """`preview`: ((C, 3) factors, (3) bias) from scaled latents to RGB in [-1, 1]."""
        self.latent_channels, self.spacial_downscale_ratio, self.scale_factor = channels, factor, scale
        if preview is not None:
            self.latent_rgb_factors, self.latent_rgb_factors_bias = preview
