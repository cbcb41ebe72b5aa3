"""TA-Tok: image -> codes. A SigLIP2 encoder, the task layer, a SimVQ codebook (docs/reference.md 6.2).

- Only what encoding needs is built: the encoder up to its second to last layer, the task layer, the codebook. The
  decoder, the last layer and the attention pooling of the published file stay on disk.
- Codes are the argmax; the authors' training mode samples them instead.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..checks import require_finite
from ..errors import Blip3oError
from ..files import read_json
from ..weights.tensors import TensorIndex

PREFIX = "model.vision_tower.vision_tower."
_LAYER = "encoder.encoder.layers."
# Saved with the encoder, needed only to turn codes back into features.
UNUSED_PREFIXES = ("decoder.", "decode_task_layer.", "encoder.", "bottleneck.out_linear.", "scale_layer.")
CODEBOOK_PREFIX = "bottleneck.regularizer."
# SigLIP2 so400m patch14-384, the only one that published checkpoints use: heads and image size are not in the tensors.
_PUBLISHED = {
    "hidden_size": 1152,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "num_attention_heads": 16,
    "image_size": 384,
}
_MOST_LAYERS = 1000
_REMEDY = "Load it in float32 or bfloat16. If that does not help, the image or the weights are damaged."


@dataclass(frozen=True)
class ImageTokenizerConfig:
    """The sizes that the tensors have, plus heads and image size from a `vision_config` (None: not known)."""

    hidden_size: int
    num_layers: int
    intermediate_size: int
    patch_size: int
    num_channels: int
    num_tokens: int  # of one image
    num_codes: int  # entries of the codebook
    code_dim: int
    num_heads: int | None
    image_size: int | None  # pixels on a side

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the codes; the table of positions is square."""
        side = round(self.num_tokens**0.5)
        if side * side != self.num_tokens:
            raise Blip3oError(
                f"The image tokenizer has {self.num_tokens} positions, which cannot be laid out as a square grid. Copy "
                "the checkpoint again."
            )
        return side, side

    def described_by(self, vision: dict | None) -> bool:
        """Whether a `vision_config` is of this network: the same width, depth, patch and number of positions."""
        if not isinstance(vision, dict):
            return False
        side, heads = vision.get("image_size"), vision.get("num_attention_heads")
        if type(side) is not int or type(heads) is not int or side < 1 or heads < 1 or self.hidden_size % heads:
            return False
        patch_size = vision.get("patch_size", self.patch_size)
        sizes = (vision.get("hidden_size"), vision.get("num_hidden_layers"), patch_size)
        return (
            sizes == (self.hidden_size, self.num_layers, self.patch_size)
            and (side // self.patch_size) ** 2 == self.num_tokens
        )


def infer_config(
    tensors: TensorIndex | dict[str, torch.Tensor], folder: Path, config: dict, file: Path | None = None
) -> ImageTokenizerConfig | None:
    """Sizes of the image tokenizer from a checkpoint's tensors (prefix stripped), None when it holds none.

    `config`: what config.json holds. `file`: the tensors are those of one file in the folder, not of all of it.
    Raises Blip3oError when only a part of the image tokenizer is there.
    """
    if "encoder.embeddings.position_embedding.weight" not in tensors:
        return None
    try:
        num_tokens, hidden_size = tensors["encoder.embeddings.position_embedding.weight"].shape
        _, num_channels, patch_size, _ = tensors["encoder.embeddings.patch_embedding.weight"].shape
        num_codes, code_dim = tensors["bottleneck.regularizer.embedding.weight"].shape
        intermediate_size = tensors[_LAYER + "0.mlp.fc1.weight"].shape[0]
        num_layers = len({name.split(".")[3] for name in tensors if name.startswith(_LAYER)})
        if num_layers > _MOST_LAYERS or patch_size < 1:
            raise ValueError(f"it has {num_layers} layers and patches of {patch_size} pixels")
    except (KeyError, ValueError, IndexError) as error:
        raise Blip3oError(
            f"The image tokenizer (TA-Tok) in {file or folder} is incomplete, or built differently: {error}. Copy the "
            f"{'file' if file else 'checkpoint'} again."
        ) from error
    found = ImageTokenizerConfig(
        hidden_size=hidden_size,
        num_layers=num_layers,
        intermediate_size=intermediate_size,
        patch_size=patch_size,
        num_channels=num_channels,
        num_tokens=num_tokens,
        num_codes=num_codes,
        code_dim=code_dim,
        num_heads=None,
        image_size=None,
    )
    for vision in _vision_configs(folder, config):
        if found.described_by(vision):
            return replace(found, num_heads=vision["num_attention_heads"], image_size=vision["image_size"])
    return found


def _vision_configs(folder: Path, config: dict) -> Iterator[dict | None]:
    """Where heads and image size may be written: config.json, the published model, files in and beside the folder."""
    yield config.get("vision_config")
    yield _PUBLISHED
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json"), *folder.parent.glob("*/*.json")]):
        if path.name.endswith("config.json") and path.name not in ("tokenizer_config.json", "generation_config.json"):
            try:
                yield read_json(path).get("vision_config")
            except Blip3oError:
                continue


def codebook_digest(codebook: dict[str, torch.Tensor]) -> str:
    """What codes mean, in 8 hex digits: a hash of the codebook's tensors by name, in float32."""
    digest = hashlib.sha256()
    for _, tensor in sorted(codebook.items()):
        digest.update(tensor.float().contiguous().numpy())
    return digest.hexdigest()[:8]


class ImageTokenizer(nn.Module):
    """Images -> codes and features. State-dict names are those of the published file."""

    def __init__(self, config: ImageTokenizerConfig):
        from transformers import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

        super().__init__()
        self.config = config
        siglip = SiglipVisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers - 1,
            num_attention_heads=config.num_heads or 1,
            num_channels=config.num_channels,
            patch_size=config.patch_size,
            image_size=self.image_size,
            hidden_act="gelu_pytorch_tanh",
            layer_norm_eps=1e-6,
        )
        siglip._attn_implementation = "sdpa"
        self.encoder = nn.ModuleDict({"embeddings": SiglipVisionEmbeddings(siglip), "encoder": SiglipEncoder(siglip)})
        self.encode_task_layer = nn.Sequential(nn.Linear(config.hidden_size, config.hidden_size), nn.Tanh())
        # In this order: a recorded run of the tiny model's recipe starts from these random values.
        in_linear = nn.Linear(config.hidden_size, config.code_dim)
        quantiser = {
            "embedding": nn.Embedding(config.num_codes, config.code_dim),
            "embedding_proj": nn.Linear(config.code_dim, config.code_dim),
        }
        self.bottleneck = nn.ModuleDict({"in_linear": in_linear, "regularizer": nn.ModuleDict(quantiser)})

    @property
    def image_size(self) -> int:
        """Pixels on a side of the images it takes."""
        return self.config.image_size or self.config.grid[0] * self.config.patch_size

    def restore_buffers(self) -> None:
        """Fill in the position ids of a network that was built on the meta device: they are not stored."""
        self.encoder["embeddings"].position_ids = torch.arange(self.config.num_tokens).expand((1, -1))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, side, side) in [-1, 1] -> (B, H*W, hidden_size): the authors' `vq_feats`, after the task layer."""
        if self.config.num_heads is None or self.config.image_size is None:
            raise Blip3oError(
                "No file says how many attention heads this checkpoint's image tokenizer has "
                f"({self.config.num_layers} layers, width {self.config.hidden_size}). Put a config.json with its "
                "`vision_config` into a folder beside the checkpoint."
            )
        states = self.encoder["encoder"](inputs_embeds=self.encoder["embeddings"](pixels)).last_hidden_state
        return self.encode_task_layer(states)

    def codes(self, features: torch.Tensor) -> torch.Tensor:
        """(B, H*W, hidden_size) features -> (B, H*W) int64 codes, row-major: the nearest codebook direction."""
        quantiser = self.bottleneck["regularizer"]
        wanted = F.normalize(self.bottleneck["in_linear"](features), dim=-1)
        index = torch.arange(self.config.num_codes, device=features.device)
        codebook = F.normalize(quantiser["embedding_proj"](quantiser["embedding"](index).to(wanted.dtype)), dim=-1)
        return (wanted @ codebook.T).argmax(-1)


@torch.no_grad()
def encode_images(
    tokenizer: ImageTokenizer, images: torch.Tensor, features: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, side, side, 3) in [0, 1] -> codes (B, T) int64 and, if asked for, features (B, T, hidden_size), on the CPU.

    Images come from `preprocess.tokenizer_input`. They are encoded one by one: in a larger batch sums are taken in
    another order, and a close code may become another. Images on the CPU go to where the weights are; a host that keeps
    weights elsewhere than it computes puts the images where it computes.
    """
    weight = tokenizer.encode_task_layer[0].weight
    device = weight.device if images.device.type == "cpu" else images.device
    codes, found = [], []
    for image in images.split(1):
        own = tokenizer.features((image.movedim(-1, 1) * 2 - 1).to(device, weight.dtype))
        require_finite(own, f"The output of the image tokenizer for image {len(codes) + 1} in {weight.dtype}", _REMEDY)
        codes.append(tokenizer.codes(own).cpu())
        found.append(own.cpu())
    return torch.cat(codes), torch.cat(found) if features else None
