"""Starting values that spare a small model what a large one has time to learn. Classes and tensor names are unchanged.

- Language model: the embedding of a code starts as what its words mean, and that of a letter in a prompt as the letter
  in the codes, so that a word is written by copying it. Heads of the first layers look at the patches
  to the left and above. In the second edition a layer stands in front of them that starts as if it were not there: its
  heads look at the references' codes of the place that is written, which are at the same distance in every prompt.
- SANA: in cross-attention every latent cell looks at the condition of its own position.
"""

import torch
from torch import nn

from ..scenes.shapes import SHAPES
from ..scenes.world import COLOURS
from . import model_config
from .model_config import FIRST_EDITION, Sizes
from .oracle_codes import FIRST_OBJECT, codebook, first_letter, piece_ids, used_codes

_CONSTANT = 0  # the dimension of the embedding that is the same for every token
_PHASES = 8  # rotary pairs of highest frequency; low ones cannot tell neighbours apart
# How many tokens back each head of the first layers looks; None: anywhere
_BACK = ((1, model_config.GRID, model_config.GRID - 1, model_config.GRID + 1), (1, 2, model_config.GRID, None))
POSITION_DIMS = 32  # dimensions of the condition that hold the position
_GAIN, _NORM = 1.5, 3.0
# From the input token back to the reference's code at the place of the next token: every prompt has as many tokens
# behind the references, and nothing stands between two of them.
_BACK_TO_REFERENCE = model_config.GRID**2 + model_config.AFTER_REFERENCES - 1
_BACK_TO_FIRST_OF_TWO = _BACK_TO_REFERENCE + model_config.GRID**2
TWO_REFERENCES = (_BACK_TO_REFERENCE, _BACK_TO_FIRST_OF_TWO, _BACK_TO_REFERENCE + 1, _BACK_TO_FIRST_OF_TWO + 1)


@torch.no_grad()
def language_model(config: dict, sizes: Sizes = FIRST_EDITION):
    """transformers' Qwen3Model with these starting values. Uses the process's random state."""
    from transformers import Qwen3Config, Qwen3Model

    fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    model = Qwen3Model(Qwen3Config(**fields))
    width, first = config["hidden_size"], config["image_start_token_id"]
    embedding = model.embed_tokens.weight
    embedding.normal_(std=0.04)
    spread = torch.linalg.qr(torch.randn(width, sizes.code_width))[0]
    codes = embedding[first : first + sizes.codes]
    codes.mul_(0.4).add_(0.6 * codebook(sizes) @ spread.T)
    if used_codes(sizes) > first_letter(sizes):
        embedding[model_config.LETTER_IDS] = letters(codes, sizes)
    # From sums of meanings alone, "red circle or blue star" cannot be told from "blue circle or red star". So each pair
    # of shape and colour has a part of its own.
    pairs = torch.randn(len(SHAPES) * len(COLOURS), width) * 0.35 / width**0.5
    objects = torch.arange(FIRST_OBJECT, first_letter(sizes))
    shapes = torch.tensor([SHAPES.index(shape) for shape, *_ in piece_ids(sizes)]).repeat_interleave(len(COLOURS))
    codes[objects] += pairs[shapes * len(COLOURS) + (objects - FIRST_OBJECT) % len(COLOURS)]
    embedding[:, _CONSTANT] = 0.3
    for layer, backs in zip(model.layers[sizes.front_layers :], _BACK, strict=False):
        _look_back(layer.self_attn, config, backs)
    if sizes.front_layers:
        model.layers[0].load_state_dict(edit_layer(config, TWO_REFERENCES))
    return model


def letters(codes: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """(26, D): what the embeddings of a letter's codes share, and those of other letters have not."""
    of_letters = codes[first_letter(sizes) : used_codes(sizes)].unflatten(0, (-1, len(COLOURS))).mean(1)
    return of_letters - of_letters.mean(0)


def _look_back(attention: nn.Module, config: dict, backs: tuple[int | None, ...]) -> None:
    """Make head k look `backs[k]` tokens back; None leaves a head as it is."""
    size = config["head_dim"]
    heads_per_key = config["num_attention_heads"] // config["num_key_value_heads"]
    frequency = config["rope_theta"] ** (-2.0 * torch.arange(_PHASES) / size)
    for norm in (attention.q_norm, attention.k_norm):
        norm.weight[:_PHASES] = norm.weight[size // 2 : size // 2 + _PHASES] = 1.7
    for head, back in enumerate(backs):
        if back is None:
            continue
        query, key = head * size, head // heads_per_key * size
        for projection, start, phase in (
            (attention.q_proj, query, -back * frequency),
            (attention.k_proj, key, 0 * frequency),
        ):
            projection.weight[start : start + size].mul_(0.3)
            projection.weight[start : start + _PHASES, _CONSTANT] = 0.3 * phase.cos()
            projection.weight[start + size // 2 : start + size // 2 + _PHASES, _CONSTANT] = 0.3 * phase.sin()


@torch.no_grad()
def edit_layer(config: dict, backs: tuple[int | None, ...]) -> dict[str, torch.Tensor]:
    """Tensors of a layer for the front of a trained model. It does not change the hidden states until it is trained."""
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
    """(H * W, POSITION_DIMS): the dimensions of highest frequency of the transformer's table of positions."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    width = model_config.SANA_HEADS * model_config.SANA_HEAD_DIM
    table = get_2d_sincos_pos_embed(
        width, model_config.GRID, base_size=model_config.GRID, interpolation_scale=1, output_type="pt"
    )
    return table.float()[:, _highest_frequencies()]


def _highest_frequencies() -> torch.Tensor:
    """Indices in the table of positions, which holds [sin | cos] per axis."""
    quarter = model_config.SANA_HEADS * model_config.SANA_HEAD_DIM // 4
    waves = torch.arange(POSITION_DIMS // 4)
    return torch.cat([start + waves for start in (0, quarter, 2 * quarter, 3 * quarter)])


@torch.no_grad()
def align_cross_attention(transformer: nn.Module) -> None:
    """Make half of the cross-attention heads of every layer start as the identity on positions.

    The first POSITION_DIMS dimensions of the condition are its position. The caption projection passes them on exactly,
    because gelu(v) - gelu(-v) = v.
    """
    projection = transformer.caption_projection
    first, second = projection.linear_1, projection.linear_2
    waves = _highest_frequencies()
    first.weight[: 2 * POSITION_DIMS] = 0
    first.bias[: 2 * POSITION_DIMS] = 0
    index = torch.arange(POSITION_DIMS)
    first.weight[index, index] = 1
    first.weight[POSITION_DIMS + index, index] = -1
    second.weight[waves] = 0
    second.bias[waves] = 0
    second.weight[waves, index] = 1
    second.weight[waves, POSITION_DIMS + index] = -1
    for block in transformer.transformer_blocks:
        attention = block.attn2
        for linear in (attention.to_q, attention.to_k):
            for head in range(0, model_config.SANA_HEADS, 2):
                rows = head * model_config.SANA_HEAD_DIM + torch.arange(POSITION_DIMS)
                linear.weight[rows] *= 0.1
                linear.weight[rows, waves] += _GAIN
        for norm in (attention.norm_q, attention.norm_k):
            norm.weight.fill_(_NORM)
