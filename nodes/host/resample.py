"""Some cells of image tokens written anew: which cells, by whom, and what the page shows of it."""

import logging
from dataclasses import dataclass

import torch

from ...blip3o_core.decoding.interface import Compute
from ...blip3o_core.decoding.sampling import Sampling
from ...blip3o_core.editing.references import References
from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.seeds import row_seeds
from ...blip3o_core.tokens.colours import mosaic
from ...blip3o_core.tokens.compose import cells_of_mask, from_token
from ...blip3o_core.tokens.generate import Request
from ...blip3o_core.tokens.image_tokens import ImageTokens
from ...blip3o_core.tokens.marks import cells_text, parse_marks
from ...blip3o_core.tokens.resample import Anew, passes, resample_tokens
from . import notes
from .language import Language, graphs_allowed

SHOWN = "blip3o_tokens"  # what web/js looks for in the result of a node
MOST_SHOWN = 16  # images of a batch in the page
OFF = -1  # of from_token


@dataclass(frozen=True)
class Context:
    """What the marked cells follow. No prompt and no reference: what the tokens were written with."""

    prompt: str = ""
    negative_prompt: str = ""
    reference: References | None = None


def marked_cells(tokens: ImageTokens, marks: str, mask: torch.Tensor | None, first: int) -> torch.Tensor:
    """(1 or B, H, W) bool: what `marks` names, `mask` touches, and everything from token `first` on."""
    marked = parse_marks(marks, tokens.grid)[None]
    if first != OFF:
        marked = marked | from_token(first, tokens.grid)
    if mask is None:
        return marked
    cells = cells_of_mask(mask, tokens.grid)
    if len(cells) not in (1, len(tokens)):
        raise Blip3oError(
            f"mask has the shape {tuple(mask.shape)} for {len(tokens)} images. Connect one mask, or one for each image."
        )
    return marked | cells


def resample(lm: Language, tokens: ImageTokens, marked: torch.Tensor, seed: int, sampling: Sampling, context: Context):
    """The tokens with the marked cells written anew, row k with seed + k; as they are when nothing is marked."""
    if not bool(marked.any()):
        notes.tell(
            ["Nothing is marked, so the tokens pass unchanged. Brush cells on the canvas, or connect a mask."],
            logging.INFO,
        )
        return tokens
    request = _request(lm, tokens, sampling, context)
    anew = Anew(tokens, marked, row_seeds(seed, len(tokens)), sampling, request)
    texts = [*(request.prompts if request else []), *([context.negative_prompt] if sampling.guidance > 1 else [])]
    asked = [request.prompt_ids(lm.encoder, text) for text in dict.fromkeys(texts)] if request else []
    longest = max(map(len, [*asked, *(tokens.prompt_ids or [])]), default=0)
    rows = len(tokens) * (2 if sampling.guidance > 1 else 1)
    with lm.loaded(lm.decode_bytes(rows, longest + lm.network.num_tokens, False)) as device:
        compute = Compute(device, lm.dtype, graphs_allowed())
        progress = lm.progress(device, len(tokens), passes(marked.flatten(1)))
        written = resample_tokens(lm.network, lm.encoder, anew, progress, compute)
    if lm.is_bundled:
        notes.tell(notes.of_prompts(written.prompts, lm.encoder))
    return written


def _request(lm: Language, tokens: ImageTokens, sampling: Sampling, context: Context) -> Request | None:
    """Another context than the tokens' own, where one is asked for."""
    another = bool(context.prompt.strip()) or context.reference is not None
    if not another and sampling.guidance <= 1:
        if tokens.prompt_ids is None:
            notes.tell(["These tokens were read from an image and have no prompt. Say in prompt what the image shows."])
        return None
    if context.reference is None and lm.reads_reference(tokens):
        raise Blip3oError(
            "These tokens are an edit: their prompt holds the reference images. Connect the same reference to use "
            "prompt or token_guidance, or leave prompt empty and token_guidance at 1."
        )
    prompts = [context.prompt if context.prompt.strip() else own for own in tokens.prompts] if another else []
    seeds = [0] * len(prompts)  # the rows' seeds are Anew's
    features = lm.reference_mode.features
    return Request(prompts, seeds, context.negative_prompt, context.reference, features)


def describe(before: ImageTokens, after: ImageTokens, marked: torch.Tensor) -> str:
    """How many cells were written anew, which, and how many codes of each row changed."""
    cells = before.grid[0] * before.grid[1]
    lines = [f"{len(after)} x {after.grid[0]}x{after.grid[1]} image tokens"]
    if not bool(marked.any()):
        return "\n".join([*lines, "nothing is marked: all tokens are kept"])
    for row, own in enumerate(marked.expand(len(after), -1, -1)):
        changed = int((after.codes[row] != before.codes[row]).sum())
        count = int(own.sum())
        lines.append(f"seed {after.seeds[row]}: {count} of {cells} tokens written again, {changed} differ")
    if len(marked) == 1:
        lines.append(f"cells: {cells_text(marked[0])}")
    return "\n".join(lines)


def shown(lm: Language, tokens: ImageTokens) -> dict:
    """What the page's canvas needs: the grid, and of each image the codes and a colour (rrggbb) for each."""
    codes = tokens.codes[:MOST_SHOWN]
    table, known = lm.mosaic_colours()
    colours = [mosaic(row[None], table, tokens.grid, known).numpy().tobytes().hex() for row in codes]
    found = {"grid": list(tokens.grid), "codes": codes.tolist(), "colours": colours, "images": len(tokens)}
    return {SHOWN: [found]}
