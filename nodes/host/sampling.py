"""Our sampler on the host's sampling machinery: its Euler, its guider, its previews; only sigmas and noise are ours."""

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview

from ...blip3o_core.diffusion.sampler import initial_noise, sigmas
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.models.autoencoder import check_size
from ...blip3o_core.seeds import row_seeds


def render(model, positive, negative, latent, seed, steps, guidance, denoise) -> dict:
    """CONDITIONING and LATENT -> LATENT, unscaled. Row k starts from the noise of `seed + k`.

    A latent of one row serves every row of the conditioning. The flow shift is the model's: ModelSamplingSD3 works.
    """
    schedule = sigmas(steps, _shift(model), denoise)
    samples = _start(model, latent)
    rows = max((len(tokens) for tokens, _ in positive), default=1)
    if len(samples) == 1 and rows > 1:
        samples = samples.repeat(rows, 1, 1, 1)
    if len(samples) % rows:
        raise Blip3oError(
            f"The latent has {len(samples)} rows, the conditioning {rows}: give the latent batch size {rows} or 1."
        )
    # A latent taken out of a batch remembers its row, and with it its noise.
    index = list(latent.get("batch_index", ()))
    index = index if len(index) == len(samples) else list(range(len(samples)))
    seeds = [row_seeds(seed, 1, row)[0] for row in index]
    result = comfy.sample.sample_custom(
        model,
        initial_noise(tuple(samples.shape[1:]), seeds),
        guidance,
        comfy.samplers.sampler_object("euler"),
        schedule,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    dropped = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    return {**{key: value for key, value in latent.items() if key not in dropped}, "samples": result}


def _shift(model) -> float:
    sampling = model.get_model_object("model_sampling")
    if not hasattr(sampling, "shift"):
        raise Blip3oError(
            f"The model's sampling is {type(sampling).__name__}, which has no flow shift. Connect the MODEL of BLIP3o "
            "Loader; of the nodes that replace the sampling, use ModelSamplingSD3."
        )
    return sampling.shift


def _start(model, latent):
    """The latent in this model's channels and cells. The host rescales empty ones, rounding where it should refuse."""
    samples, made_for = latent["samples"], latent.get("downscale_ratio_spacial")
    ours = model.get_model_object("latent_format")
    if samples.ndim != 4:
        raise Blip3oError(f"The latent has shape {tuple(samples.shape)}: pictures are (rows, channels, height, width).")
    if samples.count_nonzero() == 0 and made_for is not None:
        width, height = (round(side * made_for) for side in (samples.shape[-1], samples.shape[-2]))
        check_size(width, height, ours.spacial_downscale_ratio * model.model.diffusion_model.config.patch_size)
    samples = comfy.sample.fix_empty_latent_channels(model, samples, made_for)
    if samples.shape[1] != ours.latent_channels:
        raise Blip3oError(
            f"The latent has {samples.shape[1]} channels, this model works on {ours.latent_channels}. Encode the "
            "picture with the VAE of this checkpoint, or start from Empty Latent Image."
        )
    return samples
