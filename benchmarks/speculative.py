"""Speculative decoding of image tokens against the plain loop; what a pass over several tokens costs."""

import statistics
from functools import partial
from unittest.mock import patch

import torch

from blip3o_core.checkpoint import open_checkpoint
from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding.engine import ENGINES, decode
from blip3o_core.decoding.interface import Compute, Decoded
from blip3o_core.decoding.prefill import Prompts, prefill
from blip3o_core.decoding.sampling import Chooser, Sampling
from blip3o_core.decoding.speculative import Guess, NeighbourGuess, WindowStep, decode_speculatively
from blip3o_core.models.language import LanguageModel
from blip3o_core.tiny import evaluation

from .machine import measure, timed
from .models import Model, full, tiny

PROMPTS, WINDOWS, LENGTHS = 48, (2, 4, 8, 12, 16), (1, 2, 4, 8, 16)
KINDS = {"greedy": Sampling(top_k=1), "default": Sampling()}


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """The bundled model in float32 on unseen prompts; then the cost of a pass, there and with the published shapes."""
    model = tiny(device, torch.float32)
    prompts = _prompts(8 if quick else PROMPTS)
    windows = WINDOWS[2:3] if quick else WINDOWS
    rows = [_compare(model.language, prompts, kind, window, device) for kind in KINDS for window in windows]
    rows += _cost(model, device, 10 * runs)
    return rows + (_cost(full(device, torch.bfloat16, layers=4), device, runs) if not quick else [])


class Counted:
    """A guess that counts the passes: it learns once in each."""

    def __init__(self, guess: Guess):
        self.guess, self.passes = guess, 0

    def learn(self, known: list[int]) -> None:
        self.passes += 1
        self.guess.learn(known)

    def __call__(self, tokens: list[int]) -> int:
        return self.guess(tokens)


def counted(
    language: LanguageModel,
    prompt: list[int],
    seed: int,
    sampling: Sampling,
    window: int,
    guess: Guess | None = None,
) -> tuple[Decoded, int]:
    """What `decode` returns for one prompt with at most `window` tokens in a pass, and the number of passes.

    `guess`: in place of NeighbourGuess.
    """
    last = language.vocabulary.image_start + language.vocabulary.num_codes - 1
    counting = Counted(guess or NeighbourGuess(language.grid[1], last))
    engine = partial(decode_speculatively, window=window, guess=counting)
    with patch.dict(ENGINES, speculative=engine):
        return decode(language, Prompts([prompt]), [seed], sampling, engine="speculative"), counting.passes


def _prompts(count: int) -> list[list[int]]:
    checkpoint = open_checkpoint(BUNDLED)
    return [checkpoint.prompt_encoder.encode(one.text) for one in evaluation.square_prompts(checkpoint, count)]


def _compare(language: LanguageModel, prompts: list[list[int]], kind: str, window: int, device: torch.device) -> dict:
    """Both engines in turn for each prompt; prompt k has seed k. Seconds are medians, `ratio` is that of the pairs."""
    sampling, pairs, passes, equal, apart = KINDS[kind], [], 0, 0, 0.0
    counted(language, prompts[0], 0, sampling, window)
    for seed, prompt in enumerate(prompts):
        one_by_one = partial(decode, language, Prompts([prompt]), [seed], sampling, engine="direct")
        plain, theirs = _with_seconds(one_by_one, device)
        (guessed, needed), ours = _with_seconds(partial(counted, language, prompt, seed, sampling, window), device)
        pairs.append((ours, theirs))
        passes += needed
        equal += torch.equal(plain.ids, guessed.ids)
        apart = max(apart, (plain.hidden - guessed.hidden).abs().max().item())
    return {
        "model": "tiny", "sampling": kind, "window": window, "images": len(prompts), "equal_ids": equal,
        "hidden_apart": apart, "passes": passes / len(prompts),
        "tokens_per_pass": len(prompts) * language.num_tokens / passes,
        "ours_s": statistics.median(pair[0] for pair in pairs),
        "theirs_s": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }  # fmt: skip


def _with_seconds(work, device: torch.device):
    results = []
    seconds = timed(lambda: results.append(work()), device)
    return results[0], seconds


@torch.inference_mode()
def _cost(model: Model, device: torch.device, runs: int) -> list[dict]:
    """One pass with the choice of tokens. `break_even`: tokens that a pass must settle to be worth it."""
    language, dtype = model.language, model.language.model.norm.weight.dtype
    room = max(LENGTHS)
    prefilled = prefill(language, Prompts([model.prompt]), Compute(device, dtype))
    step = WindowStep(prefilled)
    uniforms = torch.full((1, room), 0.5, device=device)
    choose = Chooser(Sampling(), language.head_weight(prefilled.state, True), 0, uniforms, guided=False)
    embeds = prefilled.state.expand(room, -1, -1).contiguous()

    def work(length: int) -> torch.Tensor:
        return choose(step(embeds[:length], 0), uniforms[0, :length])

    seconds = {length: statistics.median(measure(partial(work, length), device, runs)) for length in LENGTHS}
    return [
        {"model": model.name, "window": length, "pass_s": taken, "break_even": taken / seconds[LENGTHS[0]]}
        for length, taken in seconds.items()
    ]
