"""TA-Tok alone, from the file it was published in: `ta_tok.pth`, {"model": {"args": ..., "sd": {name: tensor}}}.

- The file is a pickle. It is read by PyTorch's own reader for weights, which takes tensors and plain containers; the
  one class more is the dict that `args` was saved as. Anything else may be code, and the file is refused.
- Its `scale_layer` maps [0, 1] to [-1, 1]. Our network takes [-1, 1], as in checkpoints, where that layer does nothing;
  with both, images would be scaled twice.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..checks import is_finite
from ..errors import Blip3oError, bullet_list
from ..models.image_tokenizer import (
    CODEBOOK_PREFIX,
    UNUSED_PREFIXES,
    ImageTokenizer,
    ImageTokenizerConfig,
    codebook_digest,
    infer_config,
)
from ..prompts.vocabulary import CodesId
from ..weights.tensors import mismatches

# Attribute access is all that easydict adds. The reader fills no other subclass of dict than this one.
_ALLOWED = [(OrderedDict, "easydict.EasyDict")]
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class TaTokFile:
    """One recognised file; its names and shapes are those of the network."""

    path: Path
    config: ImageTokenizerConfig
    codes_id: CodesId  # knows the codebook alone

    def load(self, dtype: torch.dtype | None = None) -> ImageTokenizer:
        """The network on the CPU, frozen. `dtype` None: as stored. Raises Blip3oError for NaN and infinity."""
        network, tensors = _match(self.path, self.config, _read(self.path)[1])
        damaged = [name for name, tensor in tensors.items() if not is_finite(tensor)]
        if damaged:
            raise Blip3oError(
                f"{len(damaged)} tensors in {self.path} contain NaN or infinite values:\n{bullet_list(damaged)}\n"
                "Download the file again. If they remain, the file itself is damaged."
            )
        dtype = dtype or tensors["encode_task_layer.0.weight"].dtype
        network.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
        network.restore_buffers()
        return network.requires_grad_(False).eval()


def open_tatok(path: str | Path) -> TaTokFile:
    """Recognise a `ta_tok.pth` by its tensors. Raises Blip3oError saying what is missing, or why it is refused."""
    path = Path(path)
    arguments, tensors = _read(path)
    config = infer_config(tensors, path.parent, {}, path)
    if config is None:
        shown = ", ".join(sorted(tensors)[:4])
        raise Blip3oError(
            f"{path} does not contain all of TA-Tok: encoder.embeddings.position_embedding.weight is missing, there "
            f"are {len(tensors)} tensors ({shown}). Download ta_tok.pth again."
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
    _match(path, config, tensors)
    codebook = {name: tensor for name, tensor in tensors.items() if name.startswith(CODEBOOK_PREFIX)}
    return TaTokFile(path, config, CodesId(codebook=codebook_digest(codebook)))


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """(`args`, tensors by name), memory-mapped."""
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            content = None if refused else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever PyTorch says about a file that it cannot read
        # The rest of its message recommends to run what is in the file.
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        size = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        raise Blip3oError(
            f"Cannot read {path} ({size}) as a file of weights: {reason}. It is damaged, cut short, or could run code. "
            "Download ta_tok.pth again."
        ) from error
    if refused:
        raise Blip3oError(
            f"{path} is refused: besides tensors it contains {', '.join(sorted(refused))}, which can run code on this "
            "machine when it is read. TA-Tok's file contains nothing of the kind; download it from where it was "
            "published."
        )
    model = content.get("model") if isinstance(content, dict) else None
    tensors = model.get("sd") if isinstance(model, dict) else None
    if not isinstance(tensors, dict) or not all(map(_is_weight, tensors.items())):
        raise Blip3oError(
            f"{path} is a PyTorch file, but not TA-Tok's: it has no weights by name under 'model', 'sd'. Use "
            "ta_tok.pth as it was published."
        )
    arguments = model.get("args")
    return arguments if isinstance(arguments, dict) else {}, {name: tensor.detach() for name, tensor in tensors.items()}


def _is_weight(item: tuple) -> bool:
    name, tensor = item
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        return False
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.numel() > 0


def _match(
    path: Path, config: ImageTokenizerConfig, tensors: dict[str, torch.Tensor]
) -> tuple[ImageTokenizer, dict[str, torch.Tensor]]:
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
    lines += [f"dtype: {name} is {tensor.dtype}" for name, tensor in own.items() if tensor.dtype not in _FLOATS]
    if lines:
        raise Blip3oError(f"The tensors in {path} do not fit TA-Tok:\n{bullet_list(lines)}\nDownload ta_tok.pth again.")
    return network, own
