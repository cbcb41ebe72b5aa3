"""Some tokens of an image written anew, all others kept: a region, or everything from a token on.

Tokens are written in the order of the grid, and each sees those before it. So the tokens before a marked run are read
with the prompt, and the run is written behind them; then the next one. What follows a run does not choose again: its
codes are kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from ..decoding.engine import decode
from ..decoding.interface import Compute
from ..decoding.prefill import Prompts
from ..decoding.sampling import Sampling
from ..errors import Blip3oError
from ..models.language import LanguageModel
from ..prompts.encoder import PromptEncoder
from .compose import require_whole
from .generate import Request, prompt_features
from .image_tokens import ImageTokens, require_same_codes


@dataclass(frozen=True)
class Anew:
    """What to write anew, and how."""

    tokens: ImageTokens
    marked: torch.Tensor  # (1 or B, H, W) bool: the cells to write
    seeds: list[int]  # of each row
    sampling: Sampling = Sampling()
    # Another prompt, or a negative one, for the marked cells. None, or one without prompts: the tokens' own.
    request: Request | None = None


def resample_tokens(
    language: LanguageModel,
    encoder: PromptEncoder,
    anew: Anew,
    callback: Callable[[int, int, Callable[[], torch.Tensor]], None] | None = None,
    compute: Compute = Compute(),
) -> ImageTokens:
    """The tokens with the marked cells written anew, without hidden states, which have to be read again.

    A marked cell gets the code that a whole run with its row's seed would get after the same codes. Rows without a
    mark, and all other cells, stay as they are. `callback(done, total, codes)` counts the marked cells of a row;
    `codes()` gives all codes (B, T) so far. With nothing marked `anew.tokens` itself is returned.
    """
    tokens, sampling = anew.tokens, anew.sampling
    require_same_codes(language, tokens, "image tokens")
    require_whole(tokens)
    if not sampling.image_tokens_only:
        raise Blip3oError(
            "vocabulary is 'full', with which an image may end early. To write some cells anew, choose 'image tokens'."
        )
    marked = _rows_of(anew.marked, tokens)
    if not bool(marked.any()):
        return tokens
    if len(anew.seeds) != len(tokens):
        raise Blip3oError(f"Got {len(tokens)} rows of tokens and {len(anew.seeds)} seeds. Give one seed for each row.")
    prompts, ids, features = _context(encoder, anew)
    negative = None
    if sampling.guidance > 1:
        if anew.request is None:
            raise Blip3oError("Token guidance above 1 needs a request, which says what it leads away from.")
        negative = anew.request.prompt_ids(encoder, anew.request.negative_prompt or "")
    codes, start = tokens.codes.clone(), language.vocabulary.image_start
    done, total = 0, passes(marked)
    for rows in _alike(marked):
        own = torch.tensor(rows)
        for first, count in runs(marked[rows[0]]):

            def on_ids(written, _, fresh, own=own, first=first, before=done):
                codes[own, first : first + written] = fresh.cpu() - start
                callback(before + written, total, lambda: codes)

            given = codes[own, :first] + start if first else None
            asked = Prompts([ids[row] for row in rows], negative, features, given, count)
            seeds = [anew.seeds[row] for row in rows]
            written = decode(language, asked, seeds, sampling, on_ids if callback else None, compute)
            codes[own, first : first + count] = written.ids.cpu() - start
            done += count
    touched = marked.any(1).tolist()
    seeds = [new if hit else old for new, old, hit in zip(anew.seeds, tokens.seeds, touched, strict=True)]
    return replace(
        tokens, codes=codes, prompts=prompts, prompt_ids=ids, features=features, seeds=seeds,
        hidden=None, hidden_source=None,
    )  # fmt: skip


def _context(encoder: PromptEncoder, anew: Anew):
    """(prompts, ids, features) that the new cells follow."""
    tokens, request = anew.tokens, anew.request
    if request is None or not request.prompts:
        ids = tokens.prompt_ids or [encoder.encode(prompt) for prompt in tokens.prompts]
        return tokens.prompts, ids, tokens.features
    if len(request.prompts) != len(tokens):
        raise Blip3oError(f"Got {len(request.prompts)} prompts for {len(tokens)} rows of tokens. Give one for each.")
    ids = [request.prompt_ids(encoder, prompt) for prompt in request.prompts]
    return request.prompts, ids, prompt_features(encoder, request)


def _rows_of(marked: torch.Tensor, tokens: ImageTokens) -> torch.Tensor:
    """(1 or B, H, W) -> (B, T)."""
    rows, (height, width) = len(tokens), tokens.grid
    if marked.dtype != torch.bool or marked.shape not in ((1, height, width), (rows, height, width)):
        raise Blip3oError(
            f"The marks are {marked.dtype} of shape {tuple(marked.shape)}. They must be bool of shape "
            f"(1 or {rows}, {height}, {width}): one for each token."
        )
    return marked.flatten(1).expand(rows, -1).cpu()


def _alike(marked: torch.Tensor) -> list[list[int]]:
    """Rows with the same marks together: they are written in one batch. Rows without any are left out."""
    groups: dict[bytes, list[int]] = {}
    for row, marks in enumerate(marked):
        if bool(marks.any()):
            groups.setdefault(marks.numpy().tobytes(), []).append(row)
    return list(groups.values())


def passes(marked: torch.Tensor) -> int:
    """Tokens that are written one after the other."""
    return sum(int(marked[rows[0]].sum()) for rows in _alike(marked))


def runs(marks: torch.Tensor) -> Iterator[tuple[int, int]]:
    """(T,) bool -> (first, count) of each run of marked cells."""
    edges = torch.diff(marks.int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int))
    starts, ends = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    yield from ((first, end - first) for first, end in zip(starts, ends, strict=True))
