"""Image tokens guessed ahead (`decoding.speculative`) against the plain loop; what a pass over several costs."""

import statistics
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.checkpoint.checkpoint import open_checkpoint
from blip3o_core.decoding import engine as decoding
from blip3o_core.decoding.engine import Decoded, decode
from blip3o_core.decoding.sampling import Sampling, choose
from blip3o_core.decoding.speculative import Neighbours, WindowStepper, fill_ahead
from blip3o_core.models.language import LanguageModel
from blip3o_core.tiny import evaluation

from .machine import measure, timed
from .models import Model, full, tiny

PROMPTS, WINDOWS, LENGTHS = 48, (2, 4, 8, 12, 16), (1, 2, 4, 8, 16)
KINDS = {"greedy": Sampling(top_k=1), "default": Sampling()}


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """The bundled model in float32 over held-back prompts; then the cost of a pass, there and at the full shapes."""
    model = tiny(device, torch.float32)
    prompts = _prompts(8 if quick else PROMPTS)
    windows = WINDOWS[2:3] if quick else WINDOWS
    rows = [_ahead(model.language, prompts, kind, window, device) for kind in KINDS for window in windows]
    rows += _cost(model, device, 10 * runs)
    return rows + (_cost(full(device, torch.bfloat16, layers=4), device, runs) if not quick else [])


def decode_ahead(
    language: LanguageModel, prompt: list[int], seed: int, sampling: Sampling, window: int, guess=None
) -> Decoded:
    """What `decode` returns for one prompt without guidance, image tokens only; `window` tokens fed in a pass.

    `guess`: in place of `Neighbours`.
    """
    return counted(language, prompt, seed, sampling, window, guess)[0]


def counted(language, prompt, seed, sampling, window, guess=None) -> tuple[Decoded, int]:
    """`decode_ahead`, and the number of passes."""
    passes = []

    def counting(*arguments) -> None:
        passes.append(fill_ahead(*arguments))

    neighbours = Neighbours if guess is None else lambda *_: guess
    with patch.multiple(decoding, WINDOW=window, Neighbours=neighbours, fill_ahead=counting):
        return decode(language, [prompt], [seed], sampling, engine="speculative"), passes[0]


def _prompts(count: int) -> list[list[int]]:
    encode = open_checkpoint(BUNDLED).prompt_encoder.encode
    return [encode(prompt.text) for prompt in evaluation.make_prompts(evaluation.Settings(count=count))]


def _ahead(language: LanguageModel, prompts: list[list[int]], kind: str, window: int, device: torch.device) -> dict:
    """Both ways by turns, prompt by prompt; prompt k has seed k. Seconds are medians, `ratio` that of the pairs."""
    sampling, pairs, passes, equal, apart = KINDS[kind], [], 0, 0, 0.0
    counted(language, prompts[0], 0, sampling, window)
    for seed, prompt in enumerate(prompts):
        plain, theirs = _with_seconds(partial(decode, language, [prompt], [seed], sampling, engine="direct"), device)
        (ahead, needed), ours = _with_seconds(partial(counted, language, prompt, seed, sampling, window), device)
        pairs.append((ours, theirs))
        passes += needed
        equal += torch.equal(plain.ids, ahead.ids)
        apart = max(apart, (plain.hidden - ahead.hidden).abs().max().item())
    return {
        "model": "tiny", "sampling": kind, "window": window, "pictures": len(prompts), "equal_ids": equal,
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
    """One pass with output matrix and choice; `break_even`: tokens it must settle to be worth as many plain steps."""
    language, dtype, found = model.language, model.language.model.norm.weight.dtype, []
    room = max(LENGTHS)
    state, cache, _, position = decoding._prefill(language, [model.prompt], room, None, device, dtype)
    stepper = WindowStepper(language, cache, position + 1 + torch.arange(room, device=device))
    head = language.head_weight(state, True)
    embeds, uniforms = state.expand(room, -1, -1).contiguous(), torch.full((room,), 0.5, device=device)

    def work(length: int) -> torch.Tensor:
        logits = F.linear(stepper(embeds[:length], 0)[:, 0], head).float()
        return choose(logits, uniforms[:length], Sampling())

    for length in LENGTHS:
        seconds = statistics.median(measure(lambda n=length: work(n), device, runs))
        found.append({"model": model.name, "window": length, "pass_s": seconds})
    return [{**row, "break_even": row["pass_s"] / found[0]["pass_s"]} for row in found]
