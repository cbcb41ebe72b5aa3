"""TA-Tok alone, from the file it was published in: `ta_tok.pth`, {"model": {"args": ..., "sd": {name: tensor}}}.

- The file is a pickle. It is read without running it: see `weights/pth_file.py`.
- Its `scale_layer` maps [0, 1] to [-1, 1]. Our network takes [-1, 1], as in checkpoints, where that layer does nothing;
  with both, images would be scaled twice.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import Blip3oError, bullet_list, shown
from ..models.image_tokenizer import (
    CODEBOOK_PREFIX,
    UNUSED_PREFIXES,
    ImageTokenizer,
    ImageTokenizerConfig,
    codebook_digest,
    infer_config,
)
from ..prompts.vocabulary import CodesId
from ..weights.pth_file import read_pth
from ..weights.safetensors_file import FLOATS, TensorEntry, TensorIndex, open_unchanged
from ..weights.tensors import load_weights, mismatches

_DOWNLOAD = "Download ta_tok.pth again, from where it was published."


@dataclass(frozen=True)
class TaTokFile:
    """One recognised file; its names and shapes are those of the network."""

    path: Path
    config: ImageTokenizerConfig
    codes_id: CodesId  # knows the codebook alone

    def load(self, dtype: torch.dtype | None = None) -> ImageTokenizer:
        """The network on the CPU, frozen. `dtype` None: as stored. Raises Blip3oError for NaN and infinity."""
        network, tensors = _match(self.path, self.config, _read(self.path)[1])
        load_weights(network, tensors, dtype)
        network.restore_buffers()
        return network


def open_tatok(path: str | Path) -> TaTokFile:
    """Recognise a `ta_tok.pth` by its tensors. Raises Blip3oError saying what is missing, or why it is refused."""
    path = Path(path)
    arguments, tensors = _read(path)
    config = infer_config(tensors, path.parent, {}, path)
    if config is None:
        first = ", ".join(shown(name, 60) for name in sorted(tensors)[:4])
        raise Blip3oError(
            f"{path} does not contain all of TA-Tok: encoder.embeddings.position_embedding.weight is missing, there "
            f"are {len(tensors)} tensors ({first}). Download ta_tok.pth again."
        )
    side = arguments.get("input_size")
    if isinstance(side, int):
        patches = side // config.patch_size
        if patches**2 != config.num_tokens:
            raise Blip3oError(
                f"{path} says input_size {side}, which is {patches} patches of {config.patch_size} pixels a side, but "
                f"has {config.num_tokens} positions. Its parts do not belong together; download it again."
            )
        config = replace(config, image_size=side)
    if config.num_heads is None or config.image_size is None:
        raise Blip3oError(
            f"The number of attention heads is in no file for {path} ({config.num_layers} layers, width "
            f"{config.hidden_size}). Put the config.json of the SigLIP model it was made from, with its "
            "`vision_config`, beside it."
        )
    network, own = _match(path, config, tensors)
    codebook = {name: own[name] for name in own if name.startswith(CODEBOOK_PREFIX)}
    with open_unchanged(next(iter(own.values()))) as reader:
        digest = codebook_digest({name: reader.read(entry) for name, entry in codebook.items()})
    return TaTokFile(path, config, CodesId(codebook=digest))


def _read(path: Path) -> tuple[dict, TensorIndex]:
    """(`args`, tensors by name)."""
    content = read_pth(path, _DOWNLOAD)
    model = content.get("model") if isinstance(content, dict) else None
    tensors = model.get("sd") if isinstance(model, dict) else None
    if not isinstance(tensors, dict) or not all(map(_is_weight, tensors.items())):
        raise Blip3oError(
            f"{path} is a PyTorch file, but not TA-Tok's: it has no weights by name under 'model', 'sd'. Use "
            "ta_tok.pth as it was published."
        )
    arguments = model.get("args")
    index = {name: replace(entry, name=name) for name, entry in tensors.items()}
    return arguments if isinstance(arguments, dict) else {}, index


def _is_weight(item: tuple) -> bool:
    name, entry = item
    return isinstance(name, str) and isinstance(entry, TensorEntry) and entry.count > 0


def _match(path: Path, config: ImageTokenizerConfig, tensors: TensorIndex) -> tuple[ImageTokenizer, TensorIndex]:
    """The network on the meta device and its tensors, after every name and shape was compared."""
    try:
        with torch.device("meta"):
            network = ImageTokenizer(config)
    except Exception as error:  # whatever a library says about sizes it cannot build
        raise Blip3oError(
            f"The image tokenizer in {path} cannot be built with {config}: {error}. Download the file again."
        ) from error
    lines = mismatches(network, tensors, UNUSED_PREFIXES)
    own = {name: tensors[name] for name in network.state_dict() if name in tensors}
    lines += [f"dtype: {name} is {entry.dtype}" for name, entry in own.items() if entry.dtype not in FLOATS]
    if lines:
        raise Blip3oError(f"The tensors in {path} do not fit TA-Tok:\n{bullet_list(lines)}\nDownload ta_tok.pth again.")
    return network, own
