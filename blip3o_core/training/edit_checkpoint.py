"""What edits need besides images: a checkpoint whose transformer sees references, and data that fits it."""

from pathlib import Path

from ..checkpoint import Checkpoint
from ..diffusion.reference_conditioning import new_connector
from ..errors import Blip3oError
from ..files import write_json
from ..weights.names import CONNECTOR, REFERENCE_CONNECTOR
from ..weights.safetensors_file import DTYPES
from .data.items import Items
from .run_folder import new_folder
from .save import save_checkpoint


def check_edits(checkpoint: Checkpoint, items: Items, parts, sharded: bool) -> None:
    """Raise Blip3oError unless the checkpoint's config.json can take the references among `items`."""
    mode, edits = checkpoint.reference_mode, items.edits
    if "reference_cross" in parts and not (edits and mode.cross):
        why = "no item of the data has references" if mode.cross else f"{checkpoint.folder} does not use it"
        raise Blip3oError(
            f"train names reference_cross, but {why}. Remove reference_cross, or see 'Edits' in docs/training.md."
        )
    if not edits:
        return
    if mode.features:
        raise Blip3oError(
            f"{checkpoint.folder} takes references as features (use_tar_siglip_features). Edits cannot be trained "
            "this way. Use a checkpoint without that switch."
        )
    if mode.noise and sharded and (edits < len(items) or items.first_with_several):
        kinds = (
            f"{edits} of {len(items)} items are edits" if edits < len(items) else "Some edits have several references"
        )
        raise Blip3oError(
            f"{kinds}, and this checkpoint (use_und_image_vae_as_noise) runs items with other numbers of references in "
            "separate forward passes. FSDP needs the same number of passes in every process. Use DDP, or data of one "
            "kind."
        )


def add_references(source: Checkpoint, folder: Path, cross: bool, noise: bool, seed: int = 0) -> None:
    """Copy `source` to the new `folder`, with the switches for references and, for `cross`, a new connector."""
    if not (cross or noise):
        raise Blip3oError(
            "Choose cross, noise or both. References in the prompt need neither: every checkpoint takes them."
        )
    tensors = {}
    if cross and REFERENCE_CONNECTOR + "0.weight" not in source.tensors:
        entry = source.tensors[CONNECTOR + "0.weight"]
        connector = new_connector(source.autoencoder_config["latent_channels"], entry.shape[0], seed)
        dtype = DTYPES[entry.dtype]
        tensors = {REFERENCE_CONNECTOR + name: tensor.to(dtype) for name, tensor in connector.state_dict().items()}
    switches = {
        "use_und_image_vae": cross,
        "use_und_image_vae_as_noise": noise,
        "only_use_und_image_vae_as_noise": not cross,
        "use_tar_siglip_features": False,
    }
    with new_folder(folder) as staging:
        save_checkpoint(staging, source, {}, 5 * 10**9, tensors)
        write_json(staging / "config.json", {**source.config, **switches})
