"""The best of several images, with the bundled model: how often it is right, for several counts and rewards.

Held-back prompts of the tiny world, every count with the first images of the same seeds. `right`: the share of kept
images that the judge finds right. The judge as the reward both chooses and counts, so its rows are an upper bound: what
any reward could reach by choosing among these images. `likelihood` chooses by the tokens' mean log-probability, which
knows nothing of the judge.
"""

import statistics

import torch

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding.prefill import Prompts, encode_tokens
from blip3o_core.pipeline import Pipeline
from blip3o_core.rewards.best_of import ranking, read_rewards, render_each
from blip3o_core.rewards.interface import Candidates
from blip3o_core.seeds import row_seeds
from blip3o_core.tiny import evaluation
from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.scenes.spec import spec_of

COUNTS, PROMPTS, RUNS, TOGETHER = (1, 4, 8), 200, 3, 8  # images of each prompt, prompts, seeds, prompts at once
JUDGE, LIKELIHOOD, RANDOM = "tiny (the judge)", "likelihood", "the first"


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """In float32. Run k has its own sampling seeds."""
    pipeline = Pipeline.load(BUNDLED, device, torch.float32)
    prompts = evaluation.make_prompts(evaluation.Settings(count=16 if quick else PROMPTS, seeds=1))
    kept: dict[tuple[str, int], list[float]] = {}
    for number in range(1 if quick else RUNS):
        right: dict[tuple[str, int], int] = {}
        for first in range(0, len(prompts), TOGETHER):
            for prompt, *judged in _images(pipeline, prompts[first : first + TOGETHER], number, first):
                _count(right, prompt, *judged)
        for key, value in right.items():
            kept.setdefault(key, []).append(value / len(prompts))
    return [
        {
            "reward": reward, "best_of": count, "right_percent": 100 * statistics.mean(shares),
            "spread": 100 * statistics.stdev(shares) if len(shares) > 1 else None, "prompts": len(prompts),
            "seeds": len(shares),
        }
        for (reward, count), shares in kept.items()
    ]  # fmt: skip


def _images(pipeline: Pipeline, prompts: list, number: int, first: int):
    """(prompt, its images, their likelihoods) for each prompt."""
    most = COUNTS[-1]
    texts = [prompt.text for prompt in prompts for _ in range(most)]
    seeds = row_seeds(number * evaluation.SEED_STRIDE, len(texts), first * most)
    tokens = pipeline.generate_tokens(texts, seeds)
    likelihoods = _likelihoods(pipeline, tokens)
    images = render_each(pipeline, tokens, seeds, len(seeds), steps=evaluation.STEPS, guidance=evaluation.GUIDANCE)
    for place, prompt in enumerate(prompts):
        rows = slice(place * most, (place + 1) * most)
        yield prompt, images[rows], likelihoods[rows]


@torch.no_grad()
def _likelihoods(pipeline: Pipeline, tokens) -> list[float]:
    """The mean log-probability of each row's tokens, by the hidden states that wrote them."""
    language = pipeline.language
    hidden = encode_tokens(language, Prompts(tokens.prompt_ids), tokens.codes + language.vocabulary.image_start)
    weight = language.head_weight(hidden, image_tokens_only=True).float()
    found: list[float] = []
    for states, codes in zip(hidden[:, :-1].float(), tokens.codes.to(hidden.device), strict=True):
        found.append(float(torch.log_softmax(states @ weight.T, 1).gather(1, codes[:, None]).mean()))
    return found


def _count(right: dict, prompt, images: list[torch.Tensor], likelihoods: list[float]) -> None:
    """Add what each way to choose keeps of the first 1, 4, 8 images."""
    spec = spec_of(prompt.scene)
    verdicts = [judge_image(image.numpy(), spec).strict for image in images]
    mix = read_rewards(["tiny"])
    judged = mix.totals(mix.score(Candidates(images, [prompt.text] * len(images), meta=[{"spec": spec}] * len(images))))
    for reward, scores in ((RANDOM, [0.0] * len(images)), (JUDGE, judged), (LIKELIHOOD, likelihoods)):
        for count in COUNTS:
            best = ranking(scores[:count])[0]
            right[reward, count] = right.get((reward, count), 0) + verdicts[best]
