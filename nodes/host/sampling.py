"""BLIP3o Diffusion Sampler on the host's sampling: its Euler, its guider, its previews. Sigmas and noise are ours."""

from dataclasses import dataclass

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview

from ...blip3o_core.diffusion.sampler import initial_noise, sigmas
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.models.autoencoder import check_aspect, check_size
from ...blip3o_core.seeds import row_seeds
from . import colours, notes
from .model import DiffusionModel
from .refusals import check_dimensions, check_latent


@dataclass(frozen=True)
class SamplerSettings:
    """The widgets of the sampler."""

    noise_seed: int
    steps: int
    guidance: float
    denoise: float


def render(model, positive, negative, latent: dict, settings: SamplerSettings) -> dict:
    """CONDITIONING and LATENT -> LATENT, unscaled. Row k starts from the noise of `noise_seed + k`.

    A latent with one row serves every row of the conditioning. The flow shift is the model's: ModelSamplingSD3 works.
    """
    schedule = sigmas(settings.steps, _shift(model), settings.denoise)
    samples = _starting_latent(model, latent)
    rows = max((len(tokens) for tokens, _ in positive), default=1)
    if len(samples) == 1 and rows > 1:
        samples = samples.repeat(rows, 1, 1, 1)
    if len(samples) % rows:
        raise Blip3oError(
            f"The latent has {len(samples)} rows, but the conditioning has {rows}. Set batch_size of the latent to "
            f"{rows} or 1."
        )
    notes.tell(notes.of_batch(len(samples), rows) + _size_notes(model, samples))
    # A latent taken out of a batch remembers its row, and with it its noise.
    index = list(latent.get("batch_index", ()))
    index = index if len(index) == len(samples) else list(range(len(samples)))
    seeds = [row_seeds(settings.noise_seed, 1, row)[0] for row in index]
    result = comfy.sample.sample_custom(
        model,
        initial_noise(tuple(samples.shape[1:]), seeds),
        settings.guidance,
        comfy.samplers.sampler_object("euler"),
        schedule,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, settings.steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=settings.noise_seed,
    )
    if settings.denoise == 1 and settings.guidance >= 1 and latent.get("noise_mask") is None:
        colours.note_origin(result, positive)
    dropped = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    return {**{key: value for key, value in latent.items() if key not in dropped}, "samples": result}


def _size_notes(model, samples) -> list[str]:
    trained, cell = model.model.diffusion_model.trained_side, model.get_model_object("latent_format")
    height, width = (side * cell.spacial_downscale_ratio for side in samples.shape[-2:])
    return notes.of_size(width, height, trained) if trained else []


def _shift(model) -> float:
    if not isinstance(model.model, DiffusionModel):
        raise Blip3oError(
            f"The model is a {type(model.model).__name__}, which this node does not know. Connect the model output of "
            "BLIP3o Loader, or use KSampler."
        )
    sampling = model.get_model_object("model_sampling")
    if not hasattr(sampling, "shift"):
        raise Blip3oError(
            f"The model uses {type(sampling).__name__}, which has no flow shift. Connect the MODEL of BLIP3o Loader. "
            "To change the shift, use ModelSamplingSD3."
        )
    return sampling.shift


def _starting_latent(model, latent: dict):
    """The latent with this model's channels and cells.

    An empty latent whose size this model cannot render is refused here: the host would round it.
    """
    samples, made_for = latent["samples"], latent.get("downscale_ratio_spacial")
    ours = model.get_model_object("latent_format")
    check_dimensions(samples)
    fresh = made_for is not None and samples.count_nonzero() == 0
    height, width = (round(side * (made_for if fresh else ours.spacial_downscale_ratio)) for side in samples.shape[-2:])
    check_aspect(width, height)
    if fresh:
        check_size(width, height, ours.spacial_downscale_ratio * model.model.diffusion_model.config.patch_size)
    samples = comfy.sample.fix_empty_latent_channels(model, samples, made_for)
    check_latent(samples, samples, ours.latent_channels)
    return samples
