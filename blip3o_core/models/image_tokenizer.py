"""TA-Tok: picture -> image codes. SigLIP2 tower, task layer, SimVQ codebook (reference.md 6.2).

- Only what encoding needs is built: the tower up to its second to last layer, the task layer, the codebook. The
  decoder, the last layer and the attention pooling of the published file are left on disk.
- Codes are the argmax; the authors' training mode samples them instead.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import Blip3oError
from ..weights.tensors import Table, read_json

PREFIX = "model.vision_tower.vision_tower."
_LAYER = "encoder.encoder.layers."
# Saved with the tower, needed only to turn codes back into features.
UNUSED = ("decoder.", "decode_task_layer.", "encoder.", "bottleneck.out_linear.", "scale_layer.")
CODEBOOK = "bottleneck.regularizer."
# SigLIP2 so400m patch14-384, the only tower published checkpoints use: heads and input side are not in the tensors.
_PUBLISHED = {
    "hidden_size": 1152, "num_hidden_layers": 27, "patch_size": 14, "num_attention_heads": 16, "image_size": 384,
}  # fmt: skip


@dataclass(frozen=True)
class TowerShape:
    """What the tensors say, plus heads and input side in pixels from a `vision_config` (None: not known)."""

    width: int
    layers: int
    mlp: int
    patch: int
    channels: int
    tokens: int
    codes: int
    code_width: int
    heads: int | None
    side: int | None

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the codes; the tower's position table is square."""
        side = round(self.tokens**0.5)
        if side * side != self.tokens:
            raise Blip3oError(f"The image tokenizer has {self.tokens} positions, which is no square grid.")
        return side, side


def tower_shape(
    table: Table | dict[str, torch.Tensor], folder: Path, config: dict, file: Path | None = None
) -> TowerShape | None:
    """Sizes of the image tokenizer in a checkpoint's tensors (prefix stripped), None when it holds none.

    `file`: the tensors are those of a file in the folder, not of all of it.
    """
    if "encoder.embeddings.position_embedding.weight" not in table:
        return None
    try:
        tokens, width = table["encoder.embeddings.position_embedding.weight"].shape
        _, channels, patch, _ = table["encoder.embeddings.patch_embedding.weight"].shape
        codes, code_width = table["bottleneck.regularizer.embedding.weight"].shape
        mlp = table[_LAYER + "0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise Blip3oError(
            f"{file or folder}: the image tokenizer (TA-Tok) is incomplete or of another kind: {error}. "
            f"Copy the {'file' if file else 'checkpoint'} again."
        ) from error
    layers = len({name.split(".")[3] for name in table if name.startswith(_LAYER)})
    shape = TowerShape(width, layers, mlp, patch, channels, tokens, codes, code_width, None, None)
    for vision in _vision_configs(folder, config):
        if _is_of(vision, shape):
            return replace(shape, heads=vision["num_attention_heads"], side=vision["image_size"])
    return shape


def _vision_configs(folder: Path, config: dict) -> Iterator[dict]:
    """Where heads and input side may be written: config.json, the published model, files in and beside the folder."""
    yield config.get("vision_config")
    yield _PUBLISHED
    for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json"), *folder.parent.glob("*/*.json")]):
        if path.name.endswith("config.json") and path.name not in ("tokenizer_config.json", "generation_config.json"):
            try:
                yield read_json(path).get("vision_config")
            except Blip3oError:
                continue


def _is_of(vision: dict | None, shape: TowerShape) -> bool:
    """Whether a `vision_config` describes this tower: the same width, depth, patch and number of positions."""
    if (
        not isinstance(vision, dict)
        or not isinstance(vision.get("image_size"), int)
        or not vision.get("num_attention_heads")
    ):
        return False
    sizes = (vision.get("hidden_size"), vision.get("num_hidden_layers"), vision.get("patch_size", shape.patch))
    return (
        sizes == (shape.width, shape.layers, shape.patch) and (vision["image_size"] // shape.patch) ** 2 == shape.tokens
    )


def codebook_digest(codebook: dict) -> str:
    """What codes mean, in 8 hex digits: of the first rows of the codebook's tensors, by name.

    Values are tensors or what safetensors calls slices; only those rows are read.
    """
    digest = hashlib.sha256()
    for _, tensor in sorted(codebook.items()):
        with torch.device("cpu"):
            rows = tensor[:4].float()
        digest.update(rows.numpy().tobytes())
    return digest.hexdigest()[:8]


class ImageTokenizer(nn.Module):
    """Pictures -> codes and features. State-dict names are those of the published file."""

    def __init__(self, shape: TowerShape):
        from transformers import SiglipVisionConfig
        from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

        super().__init__()
        self.shape = shape
        config = SiglipVisionConfig(
            hidden_size=shape.width, intermediate_size=shape.mlp, num_hidden_layers=shape.layers - 1,
            num_attention_heads=shape.heads or 1, num_channels=shape.channels, patch_size=shape.patch,
            image_size=self.side, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        self.encoder = nn.ModuleDict({"embeddings": SiglipVisionEmbeddings(config), "encoder": SiglipEncoder(config)})
        self.encode_task_layer = nn.Sequential(nn.Linear(shape.width, shape.width), nn.Tanh())
        self.bottleneck = nn.ModuleDict(
            {
                "in_linear": nn.Linear(shape.width, shape.code_width),
                "regularizer": nn.ModuleDict(
                    {
                        "embedding": nn.Embedding(shape.codes, shape.code_width),
                        "embedding_proj": nn.Linear(shape.code_width, shape.code_width),
                    }
                ),
            }
        )

    @property
    def side(self) -> int:
        """Pixels on a side of the pictures it takes."""
        return self.shape.side or self.shape.grid[0] * self.shape.patch

    def restore_buffers(self) -> None:
        """Position ids are no checkpoint tensor; a network built on the meta device gets them here."""
        self.encoder["embeddings"].position_ids = torch.arange(self.shape.tokens).expand((1, -1))

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, side, side) in [-1, 1] -> (B, H*W, width): the authors' `vq_feats`, after the task layer."""
        if self.shape.heads is None or self.shape.side is None:
            raise Blip3oError(
                f"This checkpoint's image tokenizer is {self.shape.width} wide with {self.shape.layers} layers; its "
                "number of attention heads is in no file. Put a config.json with its `vision_config` beside it."
            )
        states = self.encoder["encoder"](inputs_embeds=self.encoder["embeddings"](pixels)).last_hidden_state
        return self.encode_task_layer(states)

    def codes(self, features: torch.Tensor) -> torch.Tensor:
        """(B, H*W, width) features -> (B, H*W) int64 codes, row-major: the nearest codebook direction."""
        quantiser = self.bottleneck["regularizer"]
        wanted = F.normalize(self.bottleneck["in_linear"](features), dim=-1)
        index = torch.arange(self.shape.codes, device=features.device)
        known = F.normalize(quantiser["embedding_proj"](quantiser["embedding"](index).to(wanted.dtype)), dim=-1)
        return (wanted @ known.T).argmax(-1)


@torch.no_grad()
def encode_images(
    tokenizer: ImageTokenizer, views: torch.Tensor, features: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(B, side, side, 3) in [0, 1] -> codes (B, T) int64 and, when asked for, features (B, T, width), on the CPU.

    One picture at a time: in a larger batch sums are taken in another order, and a close code may become another.
    Views on the CPU go to where the weights are; a host that keeps weights elsewhere than it computes gives them there.
    """
    weight = tokenizer.encode_task_layer[0].weight
    device = weight.device if views.device.type == "cpu" else views.device
    codes, found = [], []
    for view in views.split(1):
        own = tokenizer.features((view.movedim(-1, 1) * 2 - 1).to(device, weight.dtype))
        if not bool(torch.isfinite(own).all()):
            raise Blip3oError(
                f"The image tokenizer gave NaN or infinite values for picture {len(codes) + 1} in {weight.dtype}. Load "
                "it in float32 or bfloat16; if they remain, the picture or the weights hold them."
            )
        codes.append(tokenizer.codes(own).cpu())
        found.append(own.cpu())
    return torch.cat(codes), torch.cat(found) if features else None
