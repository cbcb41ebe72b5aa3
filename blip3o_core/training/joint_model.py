"""What can be trained, by name, and the network that the trainer runs.

- A part is a set of tensors of the published checkpoint. `sana` is all of SANA; when `caption_projection` or
  `sana_ends` is named too, their tensors take that part's learning rate.
- Language layers run through their own forward, so that FSDP and gradient checkpointing, which hook into it, work.
"""

from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as checkpointed

from ..compat import TrainingQuirks
from ..diffusion.reference_mode import ReferenceMode
from ..models.language import LanguageModel
from ..seeds import seeded
from ..weights.names import CONNECTOR, REFERENCE_CONNECTOR, SANA
from .data.collate import Batch
from .losses import Noising, joint_loss

# Part -> beginnings of its tensors' published names. A tensor belongs to the first part that fits its name.
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
    """Language model, connector and diffusion transformer. Its forward is the joint loss, so that DDP sees one call."""

    def __init__(
        self,
        language: LanguageModel,
        transformer,
        mode: ReferenceMode = ReferenceMode(),
        quirks: TrainingQuirks = TrainingQuirks(),
        bf16: bool = False,
        checkpointing: bool = False,
    ):
        super().__init__()
        self.language, self.transformer, self.reference_mode, self.quirks = language, transformer, mode, quirks
        self.bf16, self.checkpointing = bf16, checkpointing
        if checkpointing:
            transformer.enable_gradient_checkpointing()

    def forward(self, batch: Batch, noising: Noising) -> tuple[torch.Tensor, torch.Tensor]:
        """The token loss and the diffusion loss of one batch, see `joint_loss`."""
        autocast = torch.autocast(batch.latents.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with autocast:
            losses = joint_loss(
                self.language, self.transformer, batch, noising, self.reference_mode, self.quirks, self.run_language
            )
        return losses.tokens, losses.diffusion

    def run_language(self, embeds: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, L, D) -> states (B, L, D): what `LanguageModel.forward` computes without a cache."""
        model = self.language.model
        rope = model.rotary_emb(embeds, positions)
        x = embeds
        for layer in model.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpointed(_run_layer, layer, x, mask, rope, use_reentrant=False)
            else:
                x = _run_layer(layer, x, mask, rope)
        return model.norm(x)


def _run_layer(layer, x, mask, rope) -> torch.Tensor:
    out = layer(x, attention_mask=mask, position_embeddings=rope)
    return out[0] if isinstance(out, tuple) else out  # a tuple in transformers 4


def published_name(name: str) -> str:
    """Name of a JointModel's parameter -> name in the checkpoint. LoRA's base layers are the layers themselves."""
    name = name.replace(".base_layer.", ".")
    if name.startswith("language."):
        return name.removeprefix("language.")
    return SANA + name.removeprefix("transformer.")


def choose_parts(model: JointModel, chosen, lora: bool) -> dict[str, dict[str, nn.Parameter]]:
    """Freeze all but the chosen parts -> part -> name -> trained parameter, in a fixed order.

    With `lora`, the part `language` is the adapters alone.
    """
    found: dict[str, dict[str, nn.Parameter]] = {part: {} for part in PARTS if part in chosen}
    for name, parameter in sorted(model.named_parameters()):
        published = published_name(name)
        part = next((part for part in found if published.startswith(PARTS[part])), None)
        if part == "language" and lora != (_LORA in name):
            part = None
        parameter.requires_grad_(part is not None)
        if part is not None:
            found[part][name] = parameter
    return found


def add_lora(language: LanguageModel, rank: int, alpha: float, targets: tuple[str, ...], seed: int) -> None:
    """Put peft's adapters on the layers' linear modules, in place. They change nothing until they are trained."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, language.model)
    start_adapters(language.model, seed)


def start_adapters(network: nn.Module, seed: int) -> None:
    """Start peft's adapters from the run's seed. Its own first factor comes from the process's random state."""
    generator = seeded(seed)
    for name, parameter in network.named_parameters():
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator)
