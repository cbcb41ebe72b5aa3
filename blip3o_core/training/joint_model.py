"""What can be trained, each part named once, and the network that the trainer runs.

- A part is a set of tensors of the published checkpoint. `sana` is all of SANA; when `caption_projection` or
  `sana_ends` is named too, those tensors take that part's learning rate.
- Language layers are run through their own forward, so that FSDP and gradient checkpointing, which hook into it, work.
"""

from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as checkpointed

from ..diffusion.reference_mode import ReferenceMode
from ..models.language import LanguageModel
from ..seeds import seeded
from ..weights.names import CONNECTOR, REFERENCE_CONNECTOR, SANA
from .losses import Batch, Objective, joint_loss

# Part -> beginnings of its tensors' published names; the first part that fits a name has it.
PARTS = {
    "connector": (CONNECTOR,),
    "reference_cross": (REFERENCE_CONNECTOR,),
    "caption_projection": (SANA + "caption_projection.", SANA + "caption_norm."),
    "sana_ends": (SANA + "patch_embed.", SANA + "proj_out."),
    "sana": (SANA,),
    "language": ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head."),
}
_LORA = ".lora_"


class JointModel(nn.Module):
    """Language model, connector and diffusion transformer; forward is the joint loss, so that DDP sees one call."""

    def __init__(
        self, language: LanguageModel, transformer, objective: Objective, bf16=False, checkpointing=False,
        mode: ReferenceMode = ReferenceMode(),
    ):  # fmt: skip
        super().__init__()
        self.language, self.transformer, self.objective, self.reference_mode = language, transformer, objective, mode
        self.bf16, self.checkpointing = bf16, checkpointing
        if checkpointing:
            transformer.enable_gradient_checkpointing()

    def forward(self, batch: Batch, noise, timesteps, dropped) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy and flow-matching loss of one batch, see `joint_loss`."""
        autocast = torch.autocast(noise.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with autocast:
            losses = joint_loss(
                self.language,
                self.transformer,
                batch,
                noise,
                timesteps,
                dropped,
                self.objective,
                self.run_language,
                self.reference_mode,
            )
        return losses.tokens, losses.diffusion

    def run_language(self, embeds: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What `LanguageModel.forward` computes without a cache."""
        model = self.language.model
        rope = model.rotary_emb(embeds, positions)
        x = embeds
        for layer in model.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpointed(_run, layer, x, mask, rope, use_reentrant=False)
            else:
                x = _run(layer, x, mask, rope)
        return model.norm(x)


def _run(layer, x, mask, rope) -> torch.Tensor:
    out = layer(x, attention_mask=mask, position_embeddings=rope)
    return out[0] if isinstance(out, tuple) else out  # a tuple in transformers 4


def published_name(name: str) -> str:
    """Name of a JointModel's parameter -> name in the checkpoint; LoRA's base layers are the layers themselves."""
    name = name.replace(".base_layer.", ".")
    if name.startswith("language."):
        return name.removeprefix("language.")
    return SANA + name.removeprefix("transformer.")


def choose_parts(model: JointModel, chosen, lora: bool) -> dict[str, dict[str, nn.Parameter]]:
    """Let exactly the parameters of the chosen parts train -> part -> name -> parameter, in a fixed order.

    With `lora`, the part `language` is the adapters alone.
    """
    found: dict[str, dict[str, nn.Parameter]] = {part: {} for part in PARTS if part in chosen}
    for name, parameter in sorted(model.named_parameters()):
        published = published_name(name)
        fits = (part for part in found if published.startswith(PARTS[part]))
        part = next(fits, None)
        if part == "language" and lora != (_LORA in name):
            part = None
        parameter.requires_grad_(part is not None)
        if part is not None:
            found[part][name] = parameter
    return found


def add_lora(language: LanguageModel, rank: int, alpha: float, targets: tuple[str, ...], seed: int) -> None:
    """peft's adapters on the layers' linear modules, in place. They change nothing until they are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, language.model)
    # peft starts its first factor from the process's random state; ours starts from the run's seed.
    generator = seeded(seed)
    for name, parameter in language.model.named_parameters():
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator)
