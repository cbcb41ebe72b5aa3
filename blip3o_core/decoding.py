"""The decode engine: prefill, then one image token per step, hidden states collected on the way.

- The hidden state of token i appears when token i is fed; the last token costs one more step, and no second pass over
  the sequence is needed (the authors run one, reference.md 3).
- Every row has its own generator on the CPU and one uniform number per token drawn from it, so row k of a batch is the
  single run with that seed, on any device.
- Rows of different prompt lengths are padded on the left, masked, and keep their own positions.
- Rows of one prompt share its prefill. Steps go past the modules where weights allow it: on a CPU one by one
  (`stepping`), for one row of a small model several at once (`speculative`), on a GPU as a CUDA graph (`graphs`).
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .errors import Blip3oError
from .graphs import FixedLoop, FixedStepper, recorded
from .language import KVCache, LanguageModel, PromptFeatures
from .seeds import seeded
from .speculative import Neighbours, WindowStepper, fill_ahead
from .stepping import Stepper, is_small, obstacle

MAX_GUIDANCE = 1000.0
# How decode steps run: through the modules; past them, see `stepping`; as a CUDA graph, see `graphs`; several at once,
# see `speculative`.
ENGINES = ("auto", "modules", "steps", "graph", "ahead")
WINDOW = 16  # most tokens at once; 8 to 16 took about as long
SYNCHRONIZED = 8  # tokens between waits for the device, so that progress is where it says, and cancelling acts
Callback = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Defaults are the reference's: top-k, then top-p on the survivors, temperature 1."""

    top_k: int = 1200  # 0: no limit; 1: greedy
    top_p: float = 0.95
    temperature: float = 1.0  # 0: greedy
    image_tokens_only: bool = True  # False: the whole vocabulary, and an end token ends the row
    guidance: float = 1.0  # scale on the logits against a negative prompt; 1: off

    def __post_init__(self):
        # Written so that NaN fails.
        allowed = {
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 or more"),
            "guidance": (1 <= self.guidance <= MAX_GUIDANCE, f"1 to {MAX_GUIDANCE:g}"),
        }
        for name, (holds, range_) in allowed.items():
            if not holds:
                raise Blip3oError(f"{name} is {getattr(self, name)}; it must be {range_}.")

    @property
    def greedy(self) -> bool:
        return self.top_k == 1 or self.temperature < 1e-6  # below, the logits overflow


@dataclass(frozen=True)
class Decoded:
    """`ids` (B, T) token ids, padded with the pad token behind an early end; `lengths` (B) ids that count;
    `hidden` (B, 1 + T, D): the scale token's state, then each token's."""

    ids: torch.Tensor
    lengths: list[int]
    hidden: torch.Tensor


def choose(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling, shortcut: bool = True) -> torch.Tensor:
    """(B, V) float32 logits and (B,) numbers in [0, 1) -> (B,) indices. `shortcut`: use one that waits for the device.

    Top-k, then the smallest set of the most likely survivors whose mass reaches top-p (transformers' TopK and TopP
    warpers in that order, after temperature), then the inverse of the cumulative distribution.
    """
    if sampling.greedy:
        return logits.argmax(-1)
    if not sampling.top_k and sampling.top_p == 1:
        # Nothing is cut, so nothing need be sorted: at 64 rows of 8,192 codes that is 40 times as fast on a CPU.
        edges = (logits / sampling.temperature).softmax(-1).cumsum(-1)
        return torch.searchsorted(edges, uniforms[:, None] * edges[:, -1:], right=True)[:, 0].clamp(
            max=logits.shape[-1] - 1
        )
    logits = logits if sampling.temperature == 1 else logits / sampling.temperature
    few = logits.device.type == "cpu" and FEW < min(sampling.top_k or FEW + 1, logits.shape[-1])
    if shortcut and few and sampling.top_p < 1:
        picked, open_ = _choose_among_few(logits, uniforms, sampling.top_p)
        if bool(open_.any()):
            picked[open_] = _choose_sorted(logits[open_], uniforms[open_], sampling)
        return picked
    return _choose_sorted(logits, uniforms, sampling)


# Sorting the survivors of top-k takes a seventh of a small model's step on a CPU; top-p rarely keeps this many.
FEW = 64


def _choose_among_few(logits: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_choose_sorted`, and (B,) bool: rows that the likeliest `FEW` do not decide, whose pick means nothing.

    How much mass the survivors of top-k have is not known here, only bounds of it. Where both bounds end the nucleus at
    the same token, so does the mass itself; the numbers behind the pick are then the same to the bit. Which of two
    tokens with equal logits comes first is left open, here as there.
    """
    values, index = logits.topk(FEW)
    mass = (values - values[:, :1]).exp()
    edges = mass.cumsum(-1)
    before = edges - mass
    most = (logits - values[:, :1]).exp().sum(-1, keepdim=True) * (1 + 1e-5)  # it is summed in another order
    kept = before < top_p * most
    open_ = kept[:, -1] | (kept != (before < top_p * edges[:, -1:])).any(-1)
    return _invert(mass.masked_fill(~kept, 0), index, uniforms), open_


def _choose_sorted(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    size = logits.shape[-1]
    values, index = logits.topk(min(sampling.top_k or size, size))
    mass = (values - values[:, :1]).exp()
    if sampling.top_p < 1:
        edges = mass.cumsum(-1)
        mass = mass.masked_fill(edges - mass >= sampling.top_p * edges[:, -1:], 0)
    return _invert(mass, index, uniforms)


def _invert(mass: torch.Tensor, index: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """(B, n) mass of the tokens `index`, the likeliest first -> (B,) where each uniform number falls."""
    edges = mass.cumsum(-1)
    pick = (edges <= uniforms[:, None] * edges[:, -1:]).sum(-1)
    # At least 0: mass that is not finite is found later, and on a GPU an index of -1 would end the process.
    pick = torch.minimum(pick, (mass > 0).sum(-1) - 1).clamp(min=0)
    return index.gather(-1, pick[:, None])[:, 0]


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
    with torch.inference_mode():
        drawn = _decode(lm, prompts, seeds, sampling, negative, callback, device, dtype, features, engine)
    # Copies made out here are ordinary tensors, which training may use.
    return Decoded(drawn.ids.clone(), drawn.lengths, drawn.hidden.clone())


def _decode(lm, prompts, seeds, sampling, negative, callback, device, dtype, features, engine) -> Decoded:
    weight = lm.model.embed_tokens.weight
    device, dtype = torch.empty(0, device=device or weight.device).device, dtype or weight.dtype
    batch, total = len(prompts), lm.num_tokens
    _check_room(lm, max(map(len, prompts + ([negative] if negative else []))) + total)
    guided = sampling.guidance > 1 and negative is not None
    rows = prompts + ([negative] * batch if guided else [])
    state, cache, keep, position = _prefill(lm, rows, total, features, device, dtype)
    positions = position + 1 + torch.arange(total, device=device)
    head = lm.head_weight(state, sampling.image_tokens_only)
    offset = lm.vocabulary.image_start if sampling.image_tokens_only else 0
    uniforms = _uniforms(seeds, total).to(device)
    out = torch.full((batch, total), lm.vocabulary.pad, device=device)
    hidden = state.new_zeros(batch, 1 + total, state.shape[-1])

    def scores(state: torch.Tensor) -> torch.Tensor:
        logits = F.linear(state[:, 0], head).float()
        return logits if not guided else logits[batch:] + sampling.guidance * (logits[:batch] - logits[batch:])

    def embed(token: torch.Tensor) -> torch.Tensor:
        return lm.embed((torch.cat([token, token]) if guided else token)[:, None], dtype)

    _check_finite(scores(state))
    engine = _engine(engine, lm, len(rows), sampling, device, dtype)
    if engine == "graph":
        stepper = FixedStepper(lm, cache, positions, keep)

        def choose_fixed(state: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
            return choose(scores(state), uniforms.index_select(1, step)[:, 0], sampling, shortcut=False) + offset

        loop = FixedLoop(stepper, state, out, hidden, choose_fixed, embed)
        advance = recorded(loop, device)
        for step in range(total):
            advance()
            if callback is not None:
                if step % SYNCHRONIZED == 0 and device.type == "cuda":
                    torch.cuda.current_stream(device).synchronize()
                callback(step + 1, total, out[:, : step + 1])
        hidden[:, total] = loop.state[:batch, 0]
        _check_finite(hidden)
        return Decoded(out, [total] * batch, hidden)

    if engine == "ahead":

        def choose_many(states: torch.Tensor, step: int) -> torch.Tensor:
            return choose(scores(states), uniforms[0, step : step + len(states)], sampling) + offset

        note = None if callback is None else lambda done: callback(done, total, out[:, :done])
        guess = Neighbours(lm.grid[1], offset + lm.vocabulary.num_codes - 1)
        fill_ahead(WindowStepper(lm, cache, positions), state, out, hidden, choose_many, embed, WINDOW, guess, note)
        _check_finite(hidden)
        return Decoded(out, [total], hidden)

    future = keep.new_ones(len(rows), total)
    seen = None if bool(keep.all()) else torch.cat([keep, future], 1)[:, None, None]
    stepper = Stepper(lm, cache, positions, seen) if engine == "steps" else None
    stop = torch.tensor([] if sampling.image_tokens_only else lm.vocabulary.stop, device=device, dtype=torch.long)
    lengths = torch.full((batch,), total, device=device)
    running = torch.ones(batch, dtype=torch.bool, device=device)
    for step in range(total):
        hidden[:, step] = state[:batch, 0]
        token = choose(scores(state), uniforms[:, step], sampling) + offset
        if stop.numel():
            token = torch.where(running, token, lm.vocabulary.pad)
            ended = running & torch.isin(token, stop)
            lengths = torch.where(ended, step + 1, lengths)
            running = running & ~ended
        out[:, step] = token
        if callback is not None:
            callback(step + 1, total, out[:, : step + 1])
        if stepper is not None:
            state = stepper(embed(token), step)
        else:
            view = None if seen is None else seen[..., : cache.filled + 1]
            state = lm(embed(token), position + 1 + step, view, cache)
        if stop.numel() and not bool(running.any()):
            total = step + 1
            break
    hidden[:, total] = state[:batch, 0]
    _check_finite(hidden)
    return Decoded(out[:, :total], lengths.clamp(max=total).tolist(), hidden[:, : 1 + total])


def _engine(
    asked: str, lm: LanguageModel, rows: int, sampling: Sampling, device: torch.device, dtype: torch.dtype
) -> str:
    """One of ENGINES but "auto"; logs why it is not the quickest. Raises Blip3oError for one that cannot serve."""
    if asked not in ENGINES:
        raise Blip3oError(f"engine is {asked!r}; choose one of {', '.join(ENGINES)}.")
    if asked == "modules":
        return asked
    quickest = {"cpu": "steps", "cuda": "graph"}.get(device.type) if asked == "auto" else asked
    why_not = f"none is made for {device.type}" if quickest is None else obstacle(lm, device, dtype)
    if why_not is None and quickest in ("graph", "ahead") and not sampling.image_tokens_only:
        why_not = "an end token may cut the picture short"
    if why_not is None and quickest == "ahead" and rows > 1:
        why_not = f"there are {rows} rows, guidance included"
    if asked != "auto" and why_not is not None:
        raise Blip3oError(f"engine {asked!r} cannot serve here: {why_not}. Use 'auto'.")
    if asked != "auto":
        return asked
    if why_not is None:
        # In bfloat16 a pass over several tokens is rounded otherwise than over one, and other tokens follow.
        alone = quickest == "steps" and rows == 1 and sampling.image_tokens_only
        return "ahead" if alone and dtype == torch.float32 and is_small(lm) else quickest
    level = logging.DEBUG if device.type == "cpu" else logging.INFO
    logging.getLogger(__name__).log(level, "decode steps go through the modules, not the quick way: %s", why_not)
    return "modules"


def _prefill(lm: LanguageModel, rows: list[list[int]], total: int, features, device, dtype):
    """Each prompt once -> last state (B, 1, D), cache with room for `total` more, keep (B, S), last position (B, 1)."""
    unique = list(dict.fromkeys(map(tuple, rows)))
    ids, keep = pad_left([list(row) for row in unique], lm.vocabulary.pad, device)
    positions, length = own_positions(keep), ids.shape[1]
    own = len(unique) == len(rows)
    room = -(-(length + total) // 8) * 8  # GPU attention wants masks of such lengths
    cache = KVCache(lm.config, len(unique), room if own else length, device, dtype)
    state = lm(lm.embed_prompts(ids, dtype, features), positions, causal_mask(keep), cache)[:, -1:]
    if own:
        return state, cache, keep, positions[:, -1:]
    place = {row: index for index, row in enumerate(unique)}
    index = torch.tensor([place[tuple(row)] for row in rows], device=device)
    whole = KVCache(lm.config, len(rows), room, device, dtype)
    whole.data[..., :length, :] = cache.data[:, :, index]
    whole.filled = length
    return state[index], whole, keep[index], positions[index, -1:]


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
        hidden = lm(embeds, positions)
        starts = [row.index(lm.vocabulary.image_start_tag) + 1 for row in ids.tolist()]
        if len(set(starts)) > 1:
            raise Blip3oError(
                f"The rows' pictures begin at {starts}; the authors' batch only runs when all begin together."
            )
        hidden = hidden[:, starts[0] :]
    else:
        hidden = lm(embeds, own_positions(keep), causal_mask(keep))[:, before.shape[1] - 1 :]
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
