"""What edits need besides pictures: a checkpoint with ways for references, and data that fits them."""

import json
from pathlib import Path

from ..checkpoint.checkpoint import Checkpoint
from ..diffusion.reference_mode import new_connector
from ..errors import Blip3oError
from ..weights.names import CONNECTOR, REFERENCE_CONNECTOR
from ..weights.tensors import open_file
from .data.items import Item, PackedItem
from .save import save_checkpoint


def check_edits(checkpoint: Checkpoint, items: list[Item | PackedItem], parts, sharded: bool) -> None:
    """Raise Blip3oError unless the references among `items` can go the ways of the checkpoint's config.json."""
    mode, edits = checkpoint.reference_mode, [item for item in items if item.num_references]
    if "reference_cross" in parts and not (edits and mode.cross):
        why = "no picture of the data has references" if mode.cross else f"{checkpoint.folder} does not use it"
        raise Blip3oError(f"train names reference_cross, but {why}. Leave it out, or see docs/training.md, 'Edits'.")
    if not edits:
        return
    if mode.features:
        raise Blip3oError(
            f"{checkpoint.folder} takes references as features (use_tar_siglip_features), which cannot be trained on "
            "edits here. Use a checkpoint without that switch."
        )
    several = next((item for item in edits if item.num_references > 1), None)
    if mode.noise and several:
        raise Blip3oError(
            f"{several.name} has {several.num_references} references, but this checkpoint (use_und_image_vae_as_noise) "
            "takes at most one. Remove the others, or use a checkpoint without that switch."
        )
    if mode.noise and sharded and len(edits) < len(items):
        raise Blip3oError(
            "With FSDP and references beside the noise all pictures must be edits: rows of both kinds take two passes, "
            "and processes must agree on their number. Use DDP, or data of one kind."
        )


def add_references(source: Checkpoint, folder: Path, cross: bool, noise: bool, seed: int = 0) -> None:
    """Write `source` with ways for references into the new `folder`: a new connector for `cross`, and the switches."""
    if not (cross or noise):
        raise Blip3oError("Neither cross nor noise is asked for. References are in the prompt with any checkpoint.")
    if folder.exists():
        raise Blip3oError(f"{folder} is there already. Give a new folder.")
    tensors = {}
    if cross and REFERENCE_CONNECTOR + "0.weight" not in source.table:
        entry = source.table[CONNECTOR + "0.weight"]
        connector = new_connector(source.autoencoder_config["latent_channels"], entry.shape[0], seed)
        dtype = open_file(entry.file).get_tensor(entry.name).dtype
        tensors = {REFERENCE_CONNECTOR + name: tensor.to(dtype) for name, tensor in connector.state_dict().items()}
    folder.mkdir(parents=True)
    save_checkpoint(folder, source, {}, 5 * 10**9, tensors)
    path = folder / "config.json"
    switches = {"use_und_image_vae": cross, "use_und_image_vae_as_noise": noise,
                "only_use_und_image_vae_as_noise": not cross, "use_tar_siglip_features": False}  # fmt: skip
    path.write_text(json.dumps({**source.config, **switches}, indent=2) + "\n", encoding="utf-8")
