"""LoRA files for the language model as peft writes them, and what peft itself makes of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

LANGUAGE = ("model.embed_tokens.", "model.layers.", "model.norm.")
TARGETS = ("q_proj", "v_proj", "down_proj")


def qwen_with_head(checkpoint: Path):
    """transformers' own model of a checkpoint in one file, as people fine-tune it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = json.loads((checkpoint / "config.json").read_text())
    fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    model = Qwen3ForCausalLM(Qwen3Config(**fields))
    weights = load_file(checkpoint / "model.safetensors")
    model.load_state_dict({n: t for n, t in weights.items() if n.startswith(LANGUAGE)}, strict=False)
    return model.eval()


def write_lora(folder: Path, checkpoint: Path, seed: int, targets: Sequence[str] = TARGETS, **settings) -> Path:
    """peft's two files of a random LoRA that changes much, in `folder`. `settings`: of peft's LoraConfig."""
    from peft import LoraConfig, get_peft_model

    settings = {"r": 3, "lora_alpha": 6, **settings}
    model = get_peft_model(qwen_with_head(checkpoint), LoraConfig(target_modules=list(targets), **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def merged_by_peft(checkpoint: Path, loras: Sequence[tuple[Path, float]]) -> dict[str, torch.Tensor]:
    """The language model's weights with LoRAs at their strengths, added one after the other by peft."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    model = qwen_with_head(checkpoint)
    for folder, strength in loras:
        tuned = PeftModel.from_pretrained(model, str(folder))
        for module in tuned.modules():
            if isinstance(module, LoraLayer):
                # Not by `scale_layer`, which passes over embeddings.
                module.scaling = {name: scale * strength for name, scale in module.scaling.items()}
        model = tuned.merge_and_unload()
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(LANGUAGE)}
