"""The diffusion transformer as a native MODEL.

diffusers' SanaTransformer2DModel keeps its module names (LoRA keys are `diffusion_model.<diffusers name>`); only
`forward` changes to the host's arguments. Sampling is the host's FLOW: timestep 1000 * sigma, x0 = x - sigma * v. A
mean-flow network also gets the end of the step: the next sigma of the run's schedule.
"""

import comfy.conds
import comfy.model_base
import comfy.model_management as mm
import comfy.supported_models_base
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch.func import functional_call

from ...blip3o_core import memory
from ...blip3o_core.checkpoint import TRANSFORMER, open_checkpoint
from ...blip3o_core.checks import require_finite
from ...blip3o_core.diffusion.reference_conditioning import ReferenceConditioning
from ...blip3o_core.diffusion.reference_mode import ReferenceMode, Strengths
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.models.autoencoder import check_aspect, compression
from ...blip3o_core.models.meanflow import is_meanflow, next_sigma
from ...blip3o_core.models.sana import DiffusionTransformer
from . import notes
from .latent_format import DeepCompressionLatent
from .offload import dtypes, manage, swap_leaves
from .refusals import check_area, check_area_unit, check_latent, check_tokens, refuse_patches, refuse_unused


class HostTransformer(DiffusionTransformer):
    """SANA called the way the host calls a diffusion model. Made by swapping the class of a loaded network."""

    # Set when a checkpoint is loaded. No defaults here: a class attribute would hide the submodule.
    reference_connector: torch.nn.Module | None
    reference_mode: ReferenceMode
    trained_side: int | None  # in pixels, of the bundled model only: the one that is lost far from it

    def forward(self, x, timestep, context=None, control=None, transformer_options=None, **conditions):
        """x (B, C, h, w) scaled latents, timestep (B,) = 1000 * sigma, context (B, N, width) -> velocity like x.

        `conditions`: what `DiffusionModel.extra_conds` gives, and other entries of the host, which are not used.
        """
        tables, inputs = self._tables_as(x.dtype), (x, timestep, context, control, transformer_options or {})
        if tables:
            # Not through `forward`: where the host checkpoints it in training, that would be a checkpoint in another.
            named = {f"network.{name}": table for name, table in tables.items()}
            return functional_call(_Wrapped(self), named, inputs, conditions)
        return self.wrapped(*inputs, **conditions)

    def wrapped(self, x, timestep, context, control, options, **conditions):
        """`forward` with the wrappers that nodes of the host put around the network."""
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        # Wrappers may change x in place, as EasyCache does. In float32 it is the sampler's own.
        x = x.clone() if wrappers else x
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timestep, context, control, options, **conditions)

    def _tables_as(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Tensors outside of castable leaves whose dtype would turn activations of `dtype` into a wider one, cast."""
        if torch.promote_types(self.scale_shift_table.dtype, dtype) == dtype:
            return {}
        return {name: table.to(dtype) for name, table in self.named_parameters() if name.endswith("scale_shift_table")}

    def _forward(self, x, timestep, context, control, options, attention_mask=None, **references):
        refuse_unused({"control": control})
        refuse_patches(options)
        check_tokens(context, None, self.config.caption_channels)
        check_latent(x, None, self.config.in_channels)
        if is_meanflow(self):
            timestep = meanflow_timesteps(timestep, options)
        is_null = references.get("reference_null")
        is_null = torch.zeros(len(x), device=x.device) if is_null is None else is_null
        conditioning = ReferenceConditioning(
            list(references.get("ref_latents", ())),
            self.reference_mode,
            Strengths(cross=references.get("reference_cross", 1.0), noise=references.get("reference_noise", 1.0)),
            self.reference_connector,
        )
        network = _DiffusersCall(self)
        return conditioning.predict_velocity(network, x, timestep, context, attention_mask, is_null.bool())


def meanflow_timesteps(timestep: torch.Tensor, transformer_options: dict | None) -> torch.Tensor:
    """(B,) = 1000 * sigma -> (B, 2): the sigma, and where Euler's step ends: the next lower one of the schedule."""
    schedule = (transformer_options or {}).get("sample_sigmas")
    if schedule is None:
        raise Blip3oError(
            "This few-step checkpoint needs the schedule of the run (sample_sigmas), but this sampler does not give "
            "it. Use BLIP3o Diffusion Sampler, KSampler or SamplerCustomAdvanced, with the euler sampler."
        )
    sigma = timestep.float() / 1000
    return torch.stack([sigma, next_sigma(schedule.to(sigma), sigma)], dim=1)


class _Wrapped(torch.nn.Module):
    """A network whose call is its `wrapped`."""

    def __init__(self, network: HostTransformer):
        super().__init__()
        self.network = network

    def forward(self, *inputs, **conditions):
        return self.network.wrapped(*inputs, **conditions)


class _DiffusersCall:
    """The network with the arguments of diffusers."""

    def __init__(self, network: HostTransformer):
        self.network, self.config, self.patch_embed = network, network.config, network.patch_embed

    def __call__(self, x: torch.Tensor, **inputs):
        return DiffusionTransformer.forward(self.network, x, **inputs)


class DiffusionConfig(comfy.supported_models_base.BASE):
    """What the host asks about a model family, filled in from the checkpoint."""

    unet_extra_config = {}
    supported_inference_dtypes = [torch.bfloat16, torch.float32]

    def __init__(self, network: HostTransformer, latent_format: DeepCompressionLatent, shift: float):
        super().__init__({"disable_unet_model_creation": True})
        self.latent_format = latent_format
        self.sampling_settings = {"shift": shift, "multiplier": 1000}
        # In units of 0.01 MiB for each byte of the dtype.
        self.memory_usage_factor = memory.diffusion_values_per_cell(network.config) / (0.01 * 2**20)


class DiffusionModel(comfy.model_base.BaseModel):
    def __init__(self, config: DiffusionConfig, network: HostTransformer, device=None):
        super().__init__(config, comfy.model_base.ModelType.FLOW, device=device)
        self.diffusion_model = network
        self.memory_usage_factor_conds = ("ref_latents",)

    def extra_conds(self, **kwargs):
        """Called for each condition before the first step, with every sampler of the host."""
        noise, mask, tokens = kwargs["noise"], kwargs.get("attention_mask"), kwargs.get("cross_attn")
        check_latent(noise, kwargs.get("latent_image"), self.latent_format.latent_channels)
        refuse_unused(kwargs)
        check_area(kwargs, *noise.shape[-2:])
        self._check_room(noise.shape, kwargs["device"])
        check_tokens(tokens, mask, self.diffusion_model.config.caption_channels)
        out = super().extra_conds(**kwargs)
        latents = kwargs.get("reference_latents") or ()
        if latents:
            self._check_references(latents, len(noise))
            device = kwargs["device"]
            scaled = [self.process_latent_in(latent).to(device) for latent in latents]
            out["ref_latents"] = comfy.conds.CONDList(scaled)
            # ConditioningZeroOut of the positive counts as the null condition too.
            null = kwargs.get("reference_null", kwargs.get("prompt_type") == "negative")
            out["reference_null"] = comfy.conds.CONDRegular(torch.tensor([float(null)], device=device))
            for name in ("reference_cross", "reference_noise"):
                out[name] = comfy.conds.CONDConstant(kwargs.get(name, 1.0))
            # The host batches conditions of unequal length by repeating the shorter one. That changes nothing while
            # attention sees nothing else, but appended references would weigh less. This keeps lengths apart.
            out["reference_context"] = comfy.conds.CONDConstant(tokens.shape[1])
        if mask is not None:
            # ConditioningConcat appends tokens but keeps the first mask: the appended tokens are visible.
            added = tokens.shape[1] - mask.shape[1]
            mask = torch.nn.functional.pad(mask.float(), (0, added), value=1.0)
            out["attention_mask"] = comfy.conds.CONDRegular(mask)
        return out

    def extra_conds_shapes(self, **kwargs):
        """Called for each condition as nodes made it, before the model is loaded."""
        check_area_unit(kwargs, self.latent_format.spacial_downscale_ratio)
        latents = kwargs.get("reference_latents") or ()
        cells = sum(latent.shape[-2] * latent.shape[-1] for latent in latents)
        return {"ref_latents": [1, self.latent_format.latent_channels, cells]} if cells else {}

    def _check_room(self, shape, device) -> None:
        """Raise Blip3oError for latents too long for the host's previews, or too large for the memory."""
        height, width = shape[-2:]
        cell = self.latent_format.spacial_downscale_ratio
        check_aspect(width * cell, height * cell)
        if not mm.is_device_cpu(device):  # there the host makes room, and handles what does not fit
            return
        needed = memory.diffusion_bytes(
            self.diffusion_model.config, shape[0], height * width, self.get_dtype_inference()
        )
        what = f"Sampling {shape[0]} latents of {width}x{height} cells"
        memory.require_memory(needed, device, what, "Choose a smaller size or a smaller batch.")

    def _check_references(self, latents, rows: int) -> None:
        mode, channels = self.diffusion_model.reference_mode, self.latent_format.latent_channels
        if not (mode.cross or mode.noise):
            raise Blip3oError(
                "The conditioning carries reference latents, but this checkpoint cannot use them: use_und_image_vae "
                "and use_und_image_vae_as_noise are off in its config.json. Remove ReferenceLatent (references are "
                "still used as image tokens), or load BLIP3o-NEXT-edit-VAE, which supports both."
            )
        for latent in latents:
            if latent.ndim != 4 or latent.shape[1] != channels or len(latent) not in (1, rows):
                raise Blip3oError(
                    f"A reference latent has shape {tuple(latent.shape)}, but for {rows} images this model needs (1 or "
                    f"{rows}, {channels}, height, width). Encode one image with the VAE of this checkpoint."
                )

    def process_latent_out(self, latent):
        """Every sampler ends here, so a run that overflowed stops with a reason instead of giving a black image."""
        require_finite(
            latent,
            f"The latent that the diffusion transformer computed in {self.get_dtype_inference()}",
            "Load the checkpoint in fp32 and remove Model Compute Dtype, or lower the guidance. If that does not help, "
            "the weights or a LoRA are damaged.",
        )
        return super().process_latent_out(latent)


def load_diffusion(folder, diffusion, choice, vae=None, disable_dynamic=False, checkpoint=None):
    """A patcher for the transformer of the checkpoint in `folder`.

    `choice`: the loader's dtype widget. `vae`: for previews. `checkpoint`: the folder, already opened.
    """
    checkpoint = checkpoint or open_checkpoint(folder, diffusion)
    device, offload = mm.get_torch_device(), mm.unet_offload_device()
    weights, compute = dtypes(choice, checkpoint.parts[TRANSFORMER], device)
    network = checkpoint.load_transformer(weights)
    network.__class__ = HostTransformer
    network.reference_mode = checkpoint.reference_mode
    network.trained_side = checkpoint.trained_side if notes.is_bundled(folder) else None
    network.reference_connector = checkpoint.load_reference_connector(weights) if network.reference_mode.cross else None
    swap_leaves(network, cast=compute != weights)
    cells = checkpoint.autoencoder_config
    previewed = None if checkpoint.is_decoder_only else vae  # preview colours are fitted to what it encodes
    latent_format = DeepCompressionLatent(
        network.config.in_channels, compression(cells), cells["scaling_factor"], previewed
    )
    config = DiffusionConfig(network, latent_format, checkpoint.shift)
    config.set_inference_dtype(weights, None if compute == weights else compute)
    model = DiffusionModel(config, network, device=offload)
    return manage(model, device, offload, (load_diffusion, (folder, diffusion, choice, vae)), disable_dynamic)
