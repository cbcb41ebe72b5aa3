"""Find the folder that says how SANA and DC-AE are built: `transformer/config.json` and `vae/config.json`.

Given, inside the checkpoint's folder, or beside it. Among several, the first whose sizes are those of the checkpoint's
tensors; names decide nothing.
"""

from pathlib import Path

from ..errors import Blip3oError
from ..weights.names import CONNECTOR, SANA, VAE
from ..weights.tensors import Table, read_json, strip_prefix

PARTS = ("transformer", "vae")


def find(folder: Path, given: str | Path | None, table: Table, config: dict) -> Path:
    """Raises Blip3oError that says, for each folder looked at, why it is not the one."""
    if given is not None:
        candidates = [Path(given)]
    else:
        candidates = [folder, *_subfolders(folder), *_subfolders(folder.absolute().parent)]
    complete = [path for path in candidates if all((path / part / "config.json").is_file() for part in PARTS)]
    reasons = []
    for candidate in complete:
        reason = None if given is not None else _misfit(candidate, table)
        if reason is None:
            return candidate
        reasons.append(f"\n  {candidate}: {reason}")
    raise Blip3oError(
        f"No diffusion folder for {folder}: {given or 'inside it or beside it'} there must be one with "
        f"transformer/config.json and vae/config.json that fits the tensors.{''.join(reasons)}\nDownload these "
        f"two files from {config.get('diffusion_name_or_path', 'the SANA 1.5 diffusers repository')}; its weights are "
        "not needed."
    )


def _subfolders(place: Path) -> list[Path]:
    """Readable folders in `place`; none where it may not be listed."""
    try:
        return [path for path in sorted(place.iterdir()) if path.is_dir()]
    except OSError:
        return []


def _misfit(candidate: Path, table: Table) -> str | None:
    """Why the configs in `candidate` do not describe the tensors, by the sizes that tell checkpoints apart."""
    try:
        sana, vae = (read_json(candidate / part / "config.json") for part in PARTS)
    except Blip3oError as error:
        return str(error)
    checks = [("caption_channels", sana.get("caption_channels"), table[CONNECTOR + "2.weight"].shape[0])]
    own = strip_prefix(table, SANA)
    if "proj_out.weight" in own:
        blocks = {name.split(".")[1] for name in own if name.startswith("transformer_blocks.")}
        width = (sana.get("num_attention_heads") or 0) * (sana.get("attention_head_dim") or 0)
        checks.append(("num_layers", sana.get("num_layers"), len(blocks)))
        checks.append(("num_attention_heads * attention_head_dim", width, own["proj_out.weight"].shape[1]))
    own = strip_prefix(table, VAE)
    if "decoder.conv_in.weight" in own:
        # A stage without layers has no tensors: the last index tells how many there are.
        stages = 1 + max(int(name.split(".")[2]) for name in own if name.startswith("decoder.up_blocks."))
        checks.append(("latent_channels", vae.get("latent_channels"), own["decoder.conv_in.weight"].shape[1]))
        checks.append(("decoder_block_out_channels", len(vae.get("decoder_block_out_channels") or ()), stages))
    wrong = [f"{name} is {here}, the tensors say {there}" for name, here, there in checks if here != there]
    return "; ".join(wrong) or None
