"""Starts the language model from another checkpoint of the tiny world, of its first edition too: 64 px, no letters.

Words, and codes with the same meaning, keep their embeddings, and the layers their weights. A code that is new starts
as the sum of what its words mean: the linear function of the book that fits the known embeddings best.
"""

import torch

from ...checkpoint import Checkpoint
from ...errors import Blip3oError
from ...prompts.tokenizer_file import read_tokenizer
from ...seeds import seeded
from ..scenes.world import COLOURS
from . import init
from .model_config import FIRST_EDITION, LANGUAGE_LAYERS, LETTER_IDS, Sizes
from .oracle_codes import FIRST_OBJECT, codebook, piece_ids, used_codes

_EMBEDDING = "model.embed_tokens.weight"


@torch.no_grad()
def carry_over(source: Checkpoint, target: Checkpoint, sizes: Sizes) -> dict[str, torch.Tensor]:
    """The tensors of the language model of `target`, by published name, with what `source` has learnt.

    `source` has the first edition's codes, or those of `sizes`. Raises Blip3oError for another model.
    """
    old_sizes = FIRST_EDITION if source.vocabulary.num_codes == FIRST_EDITION.codes else sizes
    codes, layers = source.vocabulary.num_codes, source.config["num_hidden_layers"]
    if codes != old_sizes.codes or layers != LANGUAGE_LAYERS + 1:
        raise Blip3oError(
            f"{source.folder} has {codes:,} codes and {layers} layers. --start takes a bundled model: "
            f"{FIRST_EDITION.codes:,} or {sizes.codes:,} codes and {LANGUAGE_LAYERS + 1} layers. Give another folder, "
            "or leave --start out."
        )
    tensors = {name: t.float() for name, t in source.load_language(torch.float32).state_dict().items()}
    tensors = {name: t for name, t in tensors.items() if "connector" not in name}
    start = target.load_language(torch.float32).state_dict()
    tensors[_EMBEDDING] = _embeddings(source, target, old_sizes, sizes, tensors[_EMBEDDING], start[_EMBEDDING])
    if old_sizes != sizes:
        _look_at_both(tensors, start, target.config)
    return tensors


def _embeddings(source, target, old_sizes, sizes, old: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    learnt_words = _token_ids(source)
    fresh = start * (old.std() / start.std())  # a new word
    for token, id in _token_ids(target).items():
        if token in learnt_words:
            fresh[id] = old[learnt_words[token]]
    known = _same_codes(old_sizes, sizes)
    first_old, first = source.vocabulary.image_start, target.vocabulary.image_start
    book, embeddings = codebook(sizes), old[first_old:]
    learnt = embeddings[list(known.values())]
    mean = learnt.mean(0)
    features = book[list(known)]
    fit = torch.linalg.lstsq(features, learnt - mean, driver="gelsd").solution
    residual = (learnt - mean - features @ fit).std()
    unused = ~features.any(0)  # dimensions of the book that no known code has: letters
    fit[unused] = torch.randn(fit[unused].shape, generator=seeded(0)) * fit[~unused].std()
    noise = torch.randn(len(book), fit.shape[1], generator=seeded(1)) * residual
    codes = mean + book @ fit + noise
    codes[list(known)] = learnt
    fresh[first : first + sizes.codes] = codes
    if sizes != old_sizes:
        fresh[LETTER_IDS] = old[LETTER_IDS].mean(0) + init.letters(codes, sizes)
    return fresh


def _token_ids(checkpoint: Checkpoint) -> dict[str, int]:
    """Tokens that are no codes, and their ids."""
    content = read_tokenizer(checkpoint.folder, checkpoint.vocabulary.size)
    ids = {**content["model"]["vocab"], **{entry["content"]: entry["id"] for entry in content["added_tokens"]}}
    return {token: id for token, id in ids.items() if id < checkpoint.vocabulary.image_start}


def _same_codes(old_sizes: Sizes, sizes: Sizes) -> dict[int, int]:
    """Code -> the code of the other edition that means the same."""
    if old_sizes == sizes:
        return {code: code for code in range(used_codes(sizes))}
    same = {code: code for code in range(FIRST_OBJECT)}
    for piece, number in piece_ids(sizes).items():
        old = piece_ids(old_sizes).get(piece)
        if old is not None:
            for colour in range(len(COLOURS)):
                same[FIRST_OBJECT + number * len(COLOURS) + colour] = FIRST_OBJECT + old * len(COLOURS) + colour
    return same


def _look_at_both(tensors: dict[str, torch.Tensor], start: dict[str, torch.Tensor], config: dict) -> None:
    """The first layer's last head looks at the first of two references instead."""
    size, heads = config["head_dim"], config["num_attention_heads"]
    both = init.edit_layer(config, (None,) * (heads - 1) + (init.TWO_REFERENCES[1],))
    name = "layers.0.self_attn.q_proj.weight"
    rows = slice((heads - 1) * size, heads * size)
    key = next(full for full in tensors if full.endswith(name))
    tensors[key][rows] = both["self_attn.q_proj.weight"][rows]
