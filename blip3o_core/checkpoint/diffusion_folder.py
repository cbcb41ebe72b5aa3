"""Find the folder that says how SANA and DC-AE are built: `transformer/config.json` and `vae/config.json`.

Given, inside the checkpoint's folder, around it, beside it, or in the same hub cache. Among several it is the first
whose sizes are those of the checkpoint's tensors; names decide nothing. Where there is none, SANA 1.5's own
configuration, which comes with this library, is compared in the same way.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import Blip3oError, bullet_list, shown
from ..files import read_json
from ..weights.names import CONNECTOR, SANA, VAE
from ..weights.tensors import TensorIndex, strip_prefix
from .bundled import expand
from .plausible import AUTOENCODER_RULES, TRANSFORMER_RULES, implausible

# transformer/config.json, vae/config.json and scheduler/scheduler_config.json of Efficient-Large-Model's
# SANA1.5_1.6B_1024px_diffusers, byte for byte: what the published BLIP3o-NEXT checkpoints were built on.
BUNDLED_CONFIGS = Path(__file__).parent / "sana"
_SANA = "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"
_PARTS = ("transformer", "vae")
_FILES = " and ".join(f"{part}/config.json" for part in _PARTS)


def find_diffusion_folder(folder: Path, given: str | Path | None, tensors: TensorIndex, config: dict) -> Path:
    """The diffusion folder for the checkpoint in `folder`, whose config.json holds `config`.

    `given` is taken without a look at its sizes. Raises Blip3oError that says for each folder why it does not fit.
    """
    source = _repository(config.get("diffusion_name_or_path"))
    if given is not None:
        if _has_configs(expand(given)):
            return expand(given)
        raise Blip3oError(
            f"The diffusion folder {shown(given)} must contain {_FILES}. Choose the folder that has both, or download "
            f"them from {source}; its weights are not needed."
        )
    reasons = []
    for candidate in filter(_has_configs, _candidates(folder)):
        reason = _mismatch(candidate, tensors)
        if reason is None:
            return candidate
        reasons.append(f"{candidate}: {reason}")
    reason = _missing_weights(tensors) or _mismatch(BUNDLED_CONFIGS, tensors)
    if reason is None:
        return BUNDLED_CONFIGS
    reasons.append(f"the bundled SANA 1.5 configuration: {reason}")
    raise Blip3oError(
        f"No diffusion folder fits {folder}. Neither it, nor a folder in it, around it or beside it, contains {_FILES} "
        f"with the sizes of these weights, and the bundled configuration does not fit either.\n{bullet_list(reasons)}\n"
        f"Download these two files from {source} into {folder / 'diffusion'}."
    )


def describe_source(checkpoint_folder: Path, diffusion_folder: Path) -> str:
    """Where the configuration of the diffusion model comes from, in a few words for users."""
    if diffusion_folder == BUNDLED_CONFIGS:
        return "the bundled SANA 1.5 configuration"
    folder, diffusion = checkpoint_folder.absolute(), diffusion_folder.absolute()
    if diffusion == folder:
        return "the checkpoint's own folder"
    if diffusion.is_relative_to(folder):
        return f"{shown(diffusion.relative_to(folder).as_posix())} inside the checkpoint"
    return str(diffusion_folder)


def _repository(name: object) -> str:
    """What config.json calls the diffusion model, where that names a repository: often it is a private path."""
    return name if isinstance(name, str) and re.fullmatch(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}", name, re.ASCII) else _SANA


def _missing_weights(tensors: TensorIndex) -> str | None:
    """Which part the checkpoint does not hold, for a configuration that has no weights beside it."""
    for part, prefix in (("diffusion transformer", SANA), ("autoencoder", VAE)):
        if not strip_prefix(tensors, prefix):
            return f"the checkpoint has no weights of the {part}, and a configuration has none either"
    return None


def _candidates(folder: Path) -> Iterator[Path]:
    """Where the configs may be: in the folder, inside, around and beside it, and in other models of a hub cache."""
    parent = folder.absolute().parent
    yield from (folder, *_subfolders(folder), parent, *_subfolders(parent))
    # models--OWNER--NAME/snapshots/COMMIT
    if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
        for model in _subfolders(parent.parent.parent):
            if model.name.startswith("models--"):
                yield from _subfolders(model / "snapshots")


def _has_configs(folder: Path) -> bool:
    try:
        return all((folder / part / "config.json").is_file() for part in _PARTS)
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _subfolders(folder: Path) -> list[Path]:
    """Readable folders in `folder`; none where it may not be listed."""
    try:
        with os.scandir(folder) as entries:
            return [folder / name for name in sorted(entry.name for entry in entries if entry.is_dir())]
    except OSError:
        return []


def _mismatch(candidate: Path, tensors: TensorIndex) -> str | None:
    """Why the configs in `candidate` do not describe the tensors, by the sizes that tell checkpoints apart."""
    try:
        sana, vae = (read_json(candidate / part / "config.json") for part in _PARTS)
    except Blip3oError as error:
        return str(error)
    wrong = [*implausible(sana, TRANSFORMER_RULES), *implausible(vae, AUTOENCODER_RULES)]
    if wrong:
        return "; ".join(wrong)
    checks = [("caption_channels", sana.get("caption_channels"), tensors[CONNECTOR + "2.weight"].shape[0])]
    own = strip_prefix(tensors, SANA)
    if "proj_out.weight" in own:
        blocks = {name.split(".")[1] for name in own if name.startswith("transformer_blocks.")}
        width = (sana.get("num_attention_heads") or 0) * (sana.get("attention_head_dim") or 0)
        checks.append(("num_layers", sana.get("num_layers"), len(blocks)))
        checks.append(("num_attention_heads * attention_head_dim", width, own["proj_out.weight"].shape[1]))
    own = strip_prefix(tensors, VAE)
    if "decoder.conv_in.weight" in own:
        # A stage without layers has no tensors: the last index tells how many there are.
        numbers = [name.split(".")[2] for name in own if name.startswith("decoder.up_blocks.")]
        stages = 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) < 4), default=0)
        checks.append(("latent_channels", vae.get("latent_channels"), own["decoder.conv_in.weight"].shape[1]))
        checks.append(("decoder_block_out_channels", len(vae.get("decoder_block_out_channels") or ()), stages))
    wrong = [f"{name} is {here}, the tensors say {there}" for name, here, there in checks if here != there]
    return "; ".join(wrong) or None
