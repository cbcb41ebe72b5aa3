"""The decode engine: prefill, then one image token per step, hidden states collected on the way.

- The hidden state of token i appears when token i is fed; the last token costs one more step, and no second pass over
  the sequence is needed (the authors run one, reference.md 3).
- Every row has its own generator on the CPU and one uniform number per token drawn from it, so row k of a batch is the
  single run with that seed, on any device.
- Rows of different prompt lengths are padded on the left, masked, and keep their own positions.
- Rows of one prompt share its prefill. Steps go past the modules where weights allow it: on a CPU one by one
  (`stepping`), for one row of a small model several at once (`speculative`), on a CUDA card as one kernel (`fused`) or
  as a graph of many (`graphs`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from ..errors import Blip3oError
from ..models.language import KVCache, LanguageModel, PromptFeatures, any_length
from ..seeds import seeded
from . import fused
from .cuda_graph import FixedLoop, FixedStepper, recorded
from .direct import Stepper, is_small, obstacle
from .sampling import Sampling, choose
from .speculative import Neighbours, WindowStepper, fill_ahead

# How decode steps run: through the modules; past them, see `stepping`; as a CUDA graph, see `graphs`; several at once,
# see `speculative`; as one Triton kernel, see `fused`.
ENGINES = ("auto", "modules", "direct", "graph", "speculative", "fused")
WINDOW = 16  # most tokens at once; 8 to 16 took about as long
SYNCHRONIZED = 8  # tokens between waits for the device, so that progress is where it says, and cancelling acts
Callback = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class Decoded:
    """`ids` (B, T) token ids, padded with the pad token behind an early end; `lengths` (B) ids that count;
    `hidden` (B, 1 + T, D): the scale token's state, then each token's."""

    ids: torch.Tensor
    lengths: list[int]
    hidden: torch.Tensor


def pad_left(rows: list[list[int]], pad: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids -> (B, S) ids and (B, S) bool, True where a row has a token."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    keep = torch.tensor([[False] * (longest - len(row)) + [True] * len(row) for row in rows], device=device)
    return ids, keep


def causal_mask(keep: torch.Tensor) -> torch.Tensor | None:
    """(B, S) bool -> (B, 1, S, S) causal mask without the padding; None when nothing is padded.

    A query with nothing to see sees itself: it would be NaN and poison the next layer's values.
    """
    if bool(keep.all()):
        return None
    steps = keep.shape[1]
    causal = torch.ones(steps, steps, dtype=torch.bool, device=keep.device).tril()
    itself = torch.eye(steps, dtype=torch.bool, device=keep.device)
    seen = causal & keep[:, None, :]
    return (seen | (itself & ~seen.any(-1, keepdim=True)))[:, None]


def own_positions(keep: torch.Tensor) -> torch.Tensor:
    """(B, S) bool -> (B, S) positions that start at 0 with each row's first token."""
    return (keep.long().cumsum(-1) - 1).clamp(min=0)


def decode(
    lm: LanguageModel,
    prompts: list[list[int]],
    seeds: list[int],
    sampling: Sampling,
    negative: list[int] | None = None,
    callback: Callback | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    features: PromptFeatures | None = None,
    engine: str = "auto",
) -> Decoded:
    """Write one picture per prompt, H * W tokens each.

    `negative`: ids of the prompt that guidance leads away from, used when `sampling.guidance` > 1.
    `callback(done, total, ids (B, done))` runs once per token and may raise to cancel. The loop itself waits for the
    device only for a callback, every few tokens, and when the whole vocabulary is sampled, to see whether every row has
    ended. `engine`: one of ENGINES; "auto" is the quickest that serves these weights on this device.
    `device`, `dtype`: where and in what to compute; the weights' own by default. `features`: in every prompt, also in
    the negative one.
    """
    if not prompts or len(prompts) != len(seeds):
        raise Blip3oError(
            f"{len(prompts)} prompts and {len(seeds)} seeds: give at least one prompt, and a seed for each."
        )
    weight = lm.model.embed_tokens.weight
    device, dtype = torch.empty(0, device=device or weight.device).device, dtype or weight.dtype
    rows = len(prompts) * (2 if sampling.guidance > 1 and negative is not None else 1)
    chosen = engine_for(engine, lm, rows, sampling, device, dtype)
    with torch.inference_mode():
        run = _Run(lm, prompts, seeds, sampling, negative, callback, device, dtype, features, apart=chosen == "fused")
        drawn = _WAYS[chosen](run)
        _check_finite(drawn.hidden)
    # Copies made out here are ordinary tensors, which training may use.
    return Decoded(drawn.ids.clone(), drawn.lengths, drawn.hidden.clone())


class _Run:
    """What the ways to decode share: the prompts are read, `out` (B, T) and `hidden` (B, 1 + T, D) are to be filled.

    `state` (R, 1, D) behind the prompts, `cache`, `keep` (R, S) and `positions` (R, T) are of all R rows that are fed:
    twice B with guidance, the negative prompt's last.
    """

    def __init__(self, lm, prompts, seeds, sampling, negative, callback, device, dtype, features, apart=False):
        """`apart`: prompts are read one by one, so that a row is rounded as if it were alone."""
        self.lm, self.sampling, self.callback, self.device, self.dtype = lm, sampling, callback, device, dtype
        self.batch, self.total = len(prompts), lm.num_tokens
        _check_room(lm, max(map(len, prompts + ([negative] if negative else []))) + self.total)
        self.guided = sampling.guidance > 1 and negative is not None
        rows = prompts + ([negative] * self.batch if self.guided else [])
        self.state, self.cache, self.keep, last = _prefill(lm, rows, self.total, features, device, dtype, apart)
        self.positions = last + 1 + torch.arange(self.total, device=self.device)
        self.head = lm.head_weight(self.state, sampling.image_tokens_only)
        self.offset = lm.vocabulary.image_start if sampling.image_tokens_only else 0
        self.uniforms = _uniforms(seeds, self.total).to(self.device)
        self.out = torch.full((self.batch, self.total), lm.vocabulary.pad, device=self.device)
        self.hidden = self.state.new_zeros(self.batch, 1 + self.total, self.state.shape[-1])
        _check_finite(self.scores(self.state))

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """(R, 1, D) -> (B, V) float32 logits, guided."""
        return self.guided_logits(F.linear(states[:, 0], self.head).float())

    def guided_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """(R, V) float32 logits of all rows that are fed -> (B, V)."""
        if not self.guided:
            return logits
        null = logits[self.batch :]
        return null + self.sampling.guidance * (logits[: self.batch] - null)

    def choose(self, states: torch.Tensor, uniforms: torch.Tensor, shortcut: bool = True) -> torch.Tensor:
        """(R, 1, D) and (B,) -> (B,) ids."""
        return choose(self.scores(states), uniforms, self.sampling, shortcut) + self.offset

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(B,) ids -> (R, 1, D)."""
        return self.lm.embed((torch.cat([ids, ids]) if self.guided else ids)[:, None], self.dtype)

    def tell(self, done: int) -> None:
        if self.callback is not None:
            self.callback(done, self.total, self.out[:, :done])


def _as_a_graph(run: _Run) -> Decoded:
    def choose_at(states: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return run.choose(states, run.uniforms.index_select(1, step)[:, 0], shortcut=False)

    stepper = FixedStepper(run.lm, run.cache, run.positions, run.keep)
    loop = FixedLoop(stepper, run.state, run.out, run.hidden, choose_at, run.embed)
    _repeat(run, recorded(loop, run.device))
    run.hidden[:, run.total] = loop.state[: run.batch, 0]
    return Decoded(run.out, [run.total] * run.batch, run.hidden)


def _repeat(run: _Run, advance: Callable[[], None]) -> None:
    """`advance` once per token, with the callback."""
    for step in range(run.total):
        advance()
        if run.callback is not None and step % SYNCHRONIZED == 0 and run.device.type == "cuda":
            torch.cuda.current_stream(run.device).synchronize()
        run.tell(step + 1)


def _fused(run: _Run) -> Decoded:
    from .fused.engine import FusedLoop
    from .fused.trial import passes

    loop = FusedLoop(run)
    if not passes(loop, run):
        return _as_a_graph(run)
    _repeat(run, recorded(loop, run.device) if run.device.type == "cuda" else loop)
    return Decoded(run.out, [run.total] * run.batch, run.hidden)


def _ahead(run: _Run) -> Decoded:
    """Of one row."""

    def choose_many(states: torch.Tensor, step: int) -> torch.Tensor:
        return run.choose(states, run.uniforms[0, step : step + len(states)])

    guess = Neighbours(run.lm.grid[1], run.offset + run.lm.vocabulary.num_codes - 1)
    stepper = WindowStepper(run.lm, run.cache, run.positions)
    fill_ahead(stepper, run.state, run.out, run.hidden, choose_many, run.embed, WINDOW, guess, run.tell)
    return Decoded(run.out, [run.total], run.hidden)


def _one_by_one(run: _Run, past_modules: bool) -> Decoded:
    lm, cache, vocabulary, state, total = run.lm, run.cache, run.lm.vocabulary, run.state, run.total
    future = run.keep.new_ones(len(state), total)
    seen = None if bool(run.keep.all()) else torch.cat([run.keep, future], 1)[:, None, None]
    stepper = Stepper(lm, cache, run.positions, seen) if past_modules else None
    ends = [] if run.sampling.image_tokens_only else vocabulary.stop
    stop = torch.tensor(ends, device=run.device, dtype=torch.long)
    lengths = torch.full((run.batch,), total, device=run.device)
    running = torch.ones(run.batch, dtype=torch.bool, device=run.device)
    for step in range(total):
        run.hidden[:, step] = state[: run.batch, 0]
        token = run.choose(state, run.uniforms[:, step])
        if stop.numel():
            token = torch.where(running, token, vocabulary.pad)
            ended = running & torch.isin(token, stop)
            lengths = torch.where(ended, step + 1, lengths)
            running = running & ~ended
        run.out[:, step] = token
        run.tell(step + 1)
        if stepper is not None:
            with any_length(run.device):
                state = stepper(run.embed(token), step)
        else:
            view = None if seen is None else seen[..., : cache.filled + 1]
            with any_length(run.device):
                state = lm(run.embed(token), run.positions[:, step : step + 1], view, cache)
        if stop.numel() and not bool(running.any()):
            total = step + 1
            break
    run.hidden[:, total] = state[: run.batch, 0]
    return Decoded(run.out[:, :total], lengths.clamp(max=total).tolist(), run.hidden[:, : 1 + total])


_WAYS = {
    "modules": partial(_one_by_one, past_modules=False),
    "direct": partial(_one_by_one, past_modules=True),
    "graph": _as_a_graph,
    "speculative": _ahead,
    "fused": _fused,
}


def engine_for(
    asked: str, lm: LanguageModel, rows: int, sampling: Sampling, device: torch.device, dtype: torch.dtype
) -> str:
    """One of ENGINES but "auto"; logs why it is not the quickest. Raises Blip3oError for one that cannot serve."""
    if asked not in ENGINES:
        raise Blip3oError(f"engine is {asked!r}; choose one of {', '.join(ENGINES)}.")
    if asked == "modules":
        return asked
    if asked != "auto":
        why_not = _why_not(asked, lm, rows, sampling, device, dtype)
        if why_not is not None:
            raise Blip3oError(f"engine {asked!r} cannot serve here: {why_not}. Use 'auto'.")
        return asked
    level, log = logging.DEBUG if device.type == "cpu" else logging.INFO, logging.getLogger(__name__)
    engines = {"cpu": ("direct",), "cuda": ("fused", "graph")}.get(device.type, ())
    # In bfloat16 a pass over several tokens is rounded otherwise than over one, and other tokens follow.
    if device.type == "cpu" and dtype == torch.float32 and rows == 1 and sampling.image_tokens_only and is_small(lm):
        engines = ("speculative", *engines)
    for name in engines:
        why_not = _why_not(name, lm, rows, sampling, device, dtype)
        if why_not is None:
            return name
        log.log(level, "decode steps do not run by engine %r: %s", name, why_not)
    if not engines:
        log.log(level, "decode steps go through the modules: no engine is made for %s", device.type)
    return "modules"


def _why_not(engine: str, lm, rows: int, sampling: Sampling, device, dtype) -> str | None:
    """Why an engine cannot serve; None when it can."""
    if engine == "fused":
        return fused.obstacle(lm, rows, sampling, device, dtype)
    why_not = obstacle(lm, device, dtype)
    if why_not is None and engine in ("graph", "speculative") and not sampling.image_tokens_only:
        why_not = "an end token may cut the picture short"
    if why_not is None and engine == "speculative" and rows > 1:
        why_not = f"there are {rows} rows, guidance included"
    return why_not


def _prefill(lm: LanguageModel, rows: list[list[int]], total: int, features, device, dtype, apart: bool = False):
    """Each prompt once -> last state (B, 1, D), cache with room for `total` more, keep (B, S), last position (B, 1)."""
    unique = [list(row) for row in dict.fromkeys(map(tuple, rows))]
    groups = [[row] for row in unique] if apart else [unique]
    length = max(map(len, unique))
    room = -(-(length + total) // 8) * 8  # GPU attention wants masks of such lengths
    whole = KVCache(lm.config, len(rows), room, device, dtype)
    whole.filled = length
    _, keep = pad_left(rows, lm.vocabulary.pad, device)
    states = []
    for group in groups:
        ids, kept = pad_left(group, lm.vocabulary.pad, device)
        cache = KVCache(lm.config, len(group), ids.shape[1], device, dtype)
        embeds = lm.embed_prompts(ids, dtype, features)
        with any_length(device):
            state = lm(embeds, own_positions(kept), causal_mask(kept), cache)[:, -1:]
        for k, row in enumerate(group):
            places = [place for place, each in enumerate(rows) if each == row]
            whole.data[:, :, places, :, length - ids.shape[1] : length] = cache.data[:, :, k : k + 1]
            states.append((places, state[k]))
    state = torch.empty(len(rows), 1, lm.config.hidden_size, device=device, dtype=dtype)
    for places, each in states:
        state[places] = each
    return state, whole, keep, own_positions(keep)[:, -1:]


@torch.no_grad()
def read(
    lm: LanguageModel,
    prompts: list[list[int]],
    ids: torch.Tensor,
    unmasked: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    features: PromptFeatures | None = None,
) -> torch.Tensor:
    """One pass over prompt and tokens: (B, T) ids -> (B, 1 + T, D) hidden states from the scale token on.

    `unmasked` repeats the authors' second pass (reference.md 3): padding is attended to and moves the positions, so a
    row depends on its neighbours' lengths; the first <im_start> of a row, even in the user's text, begins the slice.
    """
    weight = lm.model.embed_tokens.weight
    device, dtype = device or weight.device, dtype or weight.dtype
    _check_room(lm, max(map(len, prompts)) + ids.shape[1])
    before, keep = pad_left(prompts, lm.vocabulary.pad, device)
    embeds = torch.cat([lm.embed_prompts(before, dtype, features), lm.embed(ids.to(device), dtype)], 1)
    ids = torch.cat([before, ids.to(device)], 1)
    keep = torch.cat([keep, keep.new_ones(keep.shape[0], ids.shape[1] - keep.shape[1])], 1)
    if unmasked:
        positions = torch.arange(ids.shape[1], device=device)[None].expand_as(ids)
        with any_length(device):
            hidden = lm(embeds, positions)
        starts = [row.index(lm.vocabulary.image_start_tag) + 1 for row in ids.tolist()]
        if len(set(starts)) > 1:
            raise Blip3oError(
                f"The rows' pictures begin at {starts}; the authors' batch only runs when all begin together."
            )
        hidden = hidden[:, starts[0] :]
    else:
        with any_length(device):
            hidden = lm(embeds, own_positions(keep), causal_mask(keep))
        hidden = hidden[:, before.shape[1] - 1 :]
    _check_finite(hidden)
    return hidden


def _uniforms(seeds: list[int], count: int) -> torch.Tensor:
    """(B, count) numbers in [0, 1), row by row from its own CPU generator."""
    return torch.stack([torch.rand(count, generator=seeded(seed)) for seed in seeds])


def _check_room(lm: LanguageModel, length: int) -> None:
    if length > lm.config.max_position_embeddings:
        raise Blip3oError(
            f"Prompt and picture need {length} tokens, the model has room for {lm.config.max_position_embeddings}. "
            "Shorten the prompt."
        )


def _check_finite(states: torch.Tensor) -> None:
    if not bool(torch.isfinite(states).all()):
        raise Blip3oError(
            f"The language model computed values that are not finite in {states.dtype}. Load it in bf16 or fp32; if "
            "that does not help, a LoRA or another patch on its weights is damaged: try without."
        )
