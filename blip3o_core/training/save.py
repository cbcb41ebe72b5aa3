"""Write a checkpoint in the published layout: trained tensors are new, all others have the bytes of the source.

- All parts are written, including those that the source took from its diffusion folder, and all config files.
- Each tensor keeps the dtype it had in the source, except that one of 8 bits becomes bfloat16 when it was trained.
- LoRA is added to the weights it adapts, or saved apart from the unchanged weights in `adapter/`, in peft's own layout.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..checkpoint import AUTOENCODER, TRANSFORMER, Checkpoint
from ..checks import require_finite
from ..errors import Blip3oError
from ..files import write_json
from ..weights.names import SANA, VAE
from ..weights.safetensors_file import DTYPES, EIGHT_BITS, TensorEntry, TensorIndex, read_tensor
from .config import Lora
from .joint_model import published_name

_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"
_INDEX = "model.safetensors.index.json"


def trained_tensors(state: dict[str, torch.Tensor], lora: Lora | None) -> dict[str, torch.Tensor]:
    """Trained parameters of a JointModel by published name, and the layers that merged adapters change.

    `state` has the trained parameters, and the base layers of adapters. Raises Blip3oError for NaN and infinity.
    """
    tensors = {}
    for name, tensor in state.items():
        if ".lora_" in name or ".base_layer." in name:
            continue
        tensors[published_name(name)] = tensor
    if lora is not None and lora.save == "merged":
        for name in state:
            if name.endswith(_A):
                layer = name.removesuffix(_A)
                base = state[layer + ".base_layer.weight"].float()
                delta = state[layer + _B].float() @ state[name].float()
                tensors[published_name(layer + ".weight")] = base + lora.alpha / lora.rank * delta
    remedy = "The checkpoint was not saved. Start a new run from the one before it, with a lower learning rate."
    for name, tensor in tensors.items():
        require_finite(tensor, name, remedy)
    return tensors


def save_checkpoint(
    folder: Path, source: Checkpoint, trained: dict[str, torch.Tensor], shard_bytes: int, added: dict | None = None
) -> None:
    """Write a complete checkpoint into the empty `folder`. `added`: tensors that the source does not have."""
    table, added = _complete_table(source), added or {}
    # The file of a tied model may contain a copy of the embedding as its head. The copy must change with it.
    if source.tied and "lm_head.weight" in table and "model.embed_tokens.weight" in trained:
        trained = {**trained, "lm_head.weight": trained["model.embed_tokens.weight"]}
    unknown = sorted(trained.keys() - table.keys())
    if unknown:
        raise Blip3oError(
            f"{source.folder} has no tensor {unknown[0]}, which was trained. The folder changed while this run used "
            "it. Restore it, then resume."
        )
    _copy_configs(folder, source)
    table |= {name: TensorEntry(folder, name, tuple(new.shape), "", new.nbytes) for name, new in added.items()}
    shards = _split(table, shard_bytes)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(_read(table, names, trained, added), folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(entry.nbytes for entry in table.values())
        write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def save_adapter(folder: Path, state: dict[str, torch.Tensor], lora: Lora) -> None:
    """Write peft's files, for `PeftModel.from_pretrained` on a Qwen3ForCausalLM with the checkpoint's weights."""
    from peft import LoraConfig

    folder.mkdir(parents=True)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), lora_dropout=0.0, bias="none",
        task_type="CAUSAL_LM", inference_mode=True,
    )  # fmt: skip
    config.save_pretrained(str(folder))
    named = {
        "base_model.model." + published_name(name).replace(".default.", "."): tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if ".lora_" in name
    }
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _complete_table(source: Checkpoint) -> TensorIndex:
    source.validate()
    table = dict(source.tensors)
    for part, prefix in ((TRANSFORMER, SANA), (AUTOENCODER, VAE)):
        table |= {prefix + name: entry for name, entry in source.parts[part].items()}
    return table


def _split(table: TensorIndex, limit: int) -> list[list[str]]:
    """Names in file order, in shards of at most `limit` bytes. A larger tensor has a shard of its own."""
    shards, filled = [[]], 0
    for name in sorted(table):
        size = table[name].nbytes
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _read(table: TensorIndex, names: list[str], trained: dict, added: dict) -> dict[str, torch.Tensor]:
    tensors = {name: added[name].detach().cpu().contiguous() for name in names if name in added}
    for name in names:
        if name in added:
            continue
        entry = table[name]
        if name in trained:  # in 8 bits, most steps of training would be lost
            dtype = torch.bfloat16 if entry.dtype in EIGHT_BITS else DTYPES[entry.dtype]
            tensors[name] = trained[name].detach().to("cpu", dtype, copy=True).contiguous()
        else:
            tensors[name] = read_tensor(entry)
    return tensors


def _copy_configs(folder: Path, source: Checkpoint) -> None:
    for path in sorted(source.folder.iterdir()):
        if path.suffix in (".json", ".txt", ".jinja", ".model") and path.is_file() and path.name != _INDEX:
            shutil.copyfile(path, folder / path.name)
    for part in ("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        path = source.diffusion_folder / part
        if path.is_file():
            target = folder / "diffusion" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    config = source.image_tokenizer_config
    if config and config.num_heads:
        # The source may have found it in a neighbouring folder, which the copy does not have.
        vision = {
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "image_size": config.image_size,
            "patch_size": config.patch_size,
        }
        (folder / "image_tokenizer").mkdir()
        write_json(folder / "image_tokenizer" / "config.json", {"vision_config": vision})
