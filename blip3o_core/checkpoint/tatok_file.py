"""TA-Tok alone, from the file it was published in: `ta_tok.pth`, {"model": {"args": ..., "sd": {name: tensor}}}.

- The file is a pickle. It is read by PyTorch's own reader for weights, which takes tensors and plain containers; the
  one class more is the dict that `args` was saved as. Anything else may be code, and the file is refused.
- Its `scale_layer` maps [0, 1] to [-1, 1]. Our tower takes [-1, 1], as in checkpoints, where that layer does nothing;
  with both, pictures would be scaled twice.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..errors import Blip3oError
from ..models.image_tokenizer import CODEBOOK, UNUSED, ImageTokenizer, TowerShape, codebook_digest, tower_shape
from ..prompts.vocabulary import CodesId
from ..weights import tensors as weights

# Attribute access is all that easydict adds. The reader fills no other subclass of dict than this one.
_ALLOWED = [(OrderedDict, "easydict.EasyDict")]
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class TaTokFile:
    """One recognised file; its names and shapes are those of the tower."""

    path: Path
    shape: TowerShape
    codes_id: CodesId  # knows the codebook alone

    def load(self, dtype: torch.dtype | None = None) -> ImageTokenizer:
        """The tower on the CPU, frozen. `dtype` None: as stored."""
        network, tensors = _fitting(self.path, self.shape, _read(self.path)[1])
        damaged = [name for name, tensor in tensors.items() if not _finite(tensor)]
        if damaged:
            raise Blip3oError(
                f"{len(damaged)} tensors in {self.path} hold NaN or infinite values: {', '.join(damaged[:20])}. "
                "Download it again; if they remain, the file itself is damaged."
            )
        dtype = dtype or tensors["encode_task_layer.0.weight"].dtype
        network.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, assign=True)
        network.restore_buffers()
        return network.requires_grad_(False).eval()


def open_tatok(path: str | Path) -> TaTokFile:
    """Recognise a `ta_tok.pth` by its tensors. Raises Blip3oError saying what is missing, or why it is refused."""
    path = Path(path)
    arguments, tensors = _read(path)
    shape = tower_shape(tensors, path.parent, {}, path)
    if shape is None:
        raise Blip3oError(
            f"{path} holds no whole TA-Tok: encoder.embeddings.position_embedding.weight is missing, there are "
            f"{len(tensors)} tensors ({', '.join(sorted(tensors)[:4])}). Download ta_tok.pth again."
        )
    side = arguments.get("input_size")
    if isinstance(side, int):
        if (side // shape.patch) ** 2 != shape.tokens:
            raise Blip3oError(
                f"{path} says input_size {side}, which is {side // shape.patch} patches of {shape.patch} pixels a "
                f"side, but has {shape.tokens} positions. Its parts do not belong together; download it again."
            )
        shape = replace(shape, side=side)
    if shape.heads is None or shape.side is None:
        raise Blip3oError(
            f"{path}: the tower is {shape.width} wide with {shape.layers} layers; its number of attention heads is in "
            "no file. Put the config.json of the SigLIP model it was made from, with its `vision_config`, beside it."
        )
    _fitting(path, shape, tensors)
    codebook = {name: tensor for name, tensor in tensors.items() if name.startswith(CODEBOOK)}
    return TaTokFile(path, shape, CodesId(codebook=codebook_digest(codebook)))


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """(`args`, tensors by name), memory-mapped."""
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            refused = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            content = None if refused else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever PyTorch says about a file that it cannot read
        # The rest of its message recommends to run what is in the file.
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        size = f"{path.stat().st_size} bytes" if path.is_file() else "no file"
        raise Blip3oError(
            f"{path} ({size}) is not a whole file of weights that PyTorch reads safely: {reason}. Download ta_tok.pth "
            "again."
        ) from error
    if refused:
        raise Blip3oError(
            f"{path} is refused: besides tensors it holds {', '.join(sorted(refused))}, which can run code on this "
            "machine when it is read. TA-Tok's file holds nothing of the kind; download it from where it was published."
        )
    model = content.get("model") if isinstance(content, dict) else None
    tensors = model.get("sd") if isinstance(model, dict) else None
    if not isinstance(tensors, dict) or not all(map(_is_weight, tensors.items())):
        raise Blip3oError(
            f"{path} is a PyTorch file, but not of TA-Tok: no weights by name under 'model', 'sd'. Give ta_tok.pth as "
            "it was published."
        )
    arguments = model.get("args")
    return arguments if isinstance(arguments, dict) else {}, {name: tensor.detach() for name, tensor in tensors.items()}


def _is_weight(item: tuple) -> bool:
    name, tensor = item
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        return False
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.numel() > 0


def _fitting(
    path: Path, shape: TowerShape, tensors: dict[str, torch.Tensor]
) -> tuple[ImageTokenizer, dict[str, torch.Tensor]]:
    """The network on the meta device and its tensors, once every name and shape was compared."""
    try:
        with torch.device("meta"):
            network = ImageTokenizer(shape)
    except Exception as error:  # whatever a library says about sizes it cannot build
        raise Blip3oError(f"No image tokenizer of {shape} can be built: {error}. Download {path} again.") from error
    lines = weights.compare(network, tensors, UNUSED)
    mine = {name: tensors[name] for name in network.state_dict() if name in tensors}
    lines += [f"dtype: {name} is {tensor.dtype}" for name, tensor in mine.items() if tensor.dtype not in _FLOATS]
    if lines:
        more = [f"and {len(lines) - 30} more"] if len(lines) > 30 else []
        raise Blip3oError(
            f"The tensors in {path} are no TA-Tok:" + "".join(f"\n  {line}" for line in lines[:30] + more)
            + "\nDownload ta_tok.pth again."
        )  # fmt: skip
    return network, mine


def _finite(tensor: torch.Tensor) -> bool:
    """Without a temporary of the tensor's size: min and max carry NaN and infinity along."""
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(tensor))
