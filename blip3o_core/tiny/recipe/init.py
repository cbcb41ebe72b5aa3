"""Starting values that spare a small model what a large one has time to find. Classes and names stay as they are.

- Language model: a code's embedding starts as what its words mean; the first layers' heads look at the patches to the
  left and above.
- SANA: cross-attention starts with every latent cell looking at the condition of its own place.
"""

import torch
from torch import nn

from ..scenes.shapes import SHAPES
from ..scenes.world import COLOURS
from . import model_config
from .oracle_codes import FIRST_OBJECT, codebook, piece_ids

_CONSTANT = 0  # dimension of the embedding that is the same for every token
_PHASES = 8  # the quickest rotary pairs: slow ones cannot tell neighbours apart
# How many tokens back the heads of a layer look; None: free
_BACK = ((1, model_config.GRID, model_config.GRID - 1, model_config.GRID + 1), (1, 2, model_config.GRID, None))
POSITION_DIMS = 32  # condition dimensions that hold the place
_GAIN, _NORM = 1.5, 3.0


@torch.no_grad()
def language_model(config: dict):
    """transformers' Qwen3Model with the start. Draws from the process's random state."""
    from transformers import Qwen3Config, Qwen3Model

    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    model = Qwen3Model(Qwen3Config(**fields))
    width, first = config["hidden_size"], config["image_start_token_id"]
    embedding = model.embed_tokens.weight
    embedding.normal_(std=0.04)
    spread = torch.linalg.qr(torch.randn(width, model_config.CODE_WIDTH))[0]
    codes = embedding[first : first + model_config.CODES]
    codes.mul_(0.4).add_(0.6 * codebook() @ spread.T)
    # Of sums alone, "a red circle or a blue star" cannot be made without "a blue circle": each pair has its own part.
    pairs = torch.randn(len(SHAPES) * len(COLOURS), width) * 0.35 / width**0.5
    objects = torch.arange(FIRST_OBJECT, FIRST_OBJECT + len(piece_ids()) * len(COLOURS))
    shapes = torch.tensor([SHAPES.index(shape) for shape, *_ in piece_ids()]).repeat_interleave(len(COLOURS))
    codes[objects] += pairs[shapes * len(COLOURS) + (objects - FIRST_OBJECT) % len(COLOURS)]
    embedding[:, _CONSTANT] = 0.3
    for layer, backs in zip(model.layers, _BACK, strict=False):
        _look_back(layer.self_attn, config, backs)
    return model


def _look_back(attention: nn.Module, config: dict, backs: tuple[int | None, ...]) -> None:
    """Head k looks `backs[k]` tokens back; None: free."""
    size = config["head_dim"]
    heads_per_key = config["num_attention_heads"] // config["num_key_value_heads"]
    frequency = config["rope_theta"] ** (-2.0 * torch.arange(_PHASES) / size)
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight[:_PHASES] = norm.weight[size // 2 : size // 2 + _PHASES] = 1.7
    for head, back in enumerate(backs):
        if back is None:
            continue
        query, key = head * size, head // heads_per_key * size
        for projection, place, phase in (
            (attention.q_proj, query, -back * frequency),
            (attention.k_proj, key, 0 * frequency),
        ):
            projection.weight[place : place + size].mul_(0.3)
            projection.weight[place : place + _PHASES, _CONSTANT] = 0.3 * phase.cos()
            projection.weight[place + size // 2 : place + size // 2 + _PHASES, _CONSTANT] = 0.3 * phase.sin()


@torch.no_grad()
def edit_layer(config: dict, backs: tuple[int | None, ...]) -> dict[str, torch.Tensor]:
    """A layer that is put in front of trained ones, by its names in a layer: it adds nothing until it is trained."""
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    layer = Qwen3DecoderLayer(Qwen3Config(**fields), 0)
    _look_back(layer.self_attn, config, backs)
    layer.self_attn.v_proj.weight.normal_(std=config["hidden_size"] ** -0.5)
    layer.self_attn.o_proj.weight.zero_()
    layer.mlp.down_proj.weight.zero_()
    return layer.state_dict()


def position_waves() -> torch.Tensor:
    """(H * W, POSITION_DIMS): the quickest dimensions of the transformer's own table of positions."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    width = model_config.SANA_HEADS * model_config.SANA_HEAD_DIM
    table = get_2d_sincos_pos_embed(
        width, model_config.GRID, base_size=model_config.GRID, interpolation_scale=1, output_type="pt"
    )
    return table.float()[:, _quickest()]


def _quickest() -> torch.Tensor:
    """Indices: for each axis sine and cosine of the quickest waves (the table is [sin | cos] per axis)."""
    quarter = model_config.SANA_HEADS * model_config.SANA_HEAD_DIM // 4
    waves = torch.arange(POSITION_DIMS // 4)
    return torch.cat([start + waves for start in (0, quarter, 2 * quarter, 3 * quarter)])


@torch.no_grad()
def align_cross_attention(transformer: nn.Module) -> None:
    """Half of the cross-attention heads of every layer start as identity on the place.

    The condition's first POSITION_DIMS dimensions are its place; the caption projection hands them on exactly, as
    gelu(v) - gelu(-v) = v.
    """
    projection = transformer.caption_projection
    first, second = projection.linear_1, projection.linear_2
    quickest = _quickest()
    first.weight[: 2 * POSITION_DIMS] = 0
    first.bias[: 2 * POSITION_DIMS] = 0
    index = torch.arange(POSITION_DIMS)
    first.weight[index, index] = 1
    first.weight[POSITION_DIMS + index, index] = -1
    second.weight[quickest] = 0
    second.bias[quickest] = 0
    second.weight[quickest, index] = 1
    second.weight[quickest, POSITION_DIMS + index] = -1
    for block in transformer.transformer_blocks:
        attention = block.attn2
        for linear in (attention.to_q, attention.to_k):
            for head in range(0, model_config.SANA_HEADS, 2):
                rows = head * model_config.SANA_HEAD_DIM + torch.arange(POSITION_DIMS)
                linear.weight[rows] *= 0.1
                linear.weight[rows, quickest] += _GAIN
        for norm in (attention.norm_q, attention.norm_k):
            norm.weight.fill_(_NORM)
