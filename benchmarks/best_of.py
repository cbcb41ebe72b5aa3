"""The best of several images, with the bundled model: how often it is right, for several counts and rewards.

Held-back prompts, or edits, of the tiny world, every count with the first images of the same seeds. `right`: the share
of kept images that the judge finds right. The judge as the reward both chooses and counts, so its rows are an upper
bound: what any reward could reach by choosing among these images. `likelihood` chooses by the tokens' mean
log-probability, and `consistency` by what an edit left alone; neither knows anything of the judge.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence

import torch

from blip3o_core.checkpoint.bundled import BUNDLED
from blip3o_core.decoding.prefill import Prompts, encode_tokens
from blip3o_core.pipeline import Pipeline
from blip3o_core.rewards.best_of import ranking, read_rewards, render_each
from blip3o_core.rewards.interface import Candidates
from blip3o_core.seeds import row_seeds
from blip3o_core.tiny import edit_evaluation, evaluation
from blip3o_core.tiny.judge.judge import judge_image
from blip3o_core.tiny.scenes.edits import may_change
from blip3o_core.tiny.scenes.rasterize import rasterize
from blip3o_core.tiny.scenes.spec import spec_of

PROMPTS, EDITS, QUICK, RUNS, TOGETHER = 200, 120, 16, 3, 8  # prompts, edits, seeds, prompts at once
COUNTS, EDIT_COUNTS = (1, 4, 8), (1, 2, 4)  # images of each prompt and edit
JUDGE, LIKELIHOOD, CONSISTENCY, RANDOM = "tiny (the judge)", "likelihood", "consistency", "the first"

# Of the images of one prompt: which are right, and what each reward says of them.
Seen = tuple[list[bool], dict[str, Sequence[float | None]]]


def run(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """Images of prompts, in float32. Run k has its own sampling seeds."""
    pipeline = Pipeline.load(BUNDLED, device, torch.float32)
    prompts = evaluation.square_prompts(pipeline.checkpoint, QUICK if quick else PROMPTS)
    return _table(lambda number: _images(pipeline, prompts, number), COUNTS, 1 if quick else RUNS)


def run_edits(device: torch.device, runs: int, quick: bool) -> list[dict]:
    """The same of edits."""
    pipeline = Pipeline.load(BUNDLED, device, torch.float32)
    edition = evaluation.edition_of(pipeline.checkpoint)
    pairs = edit_evaluation.make_edits(edit_evaluation.Settings(QUICK if quick else EDITS, edition=edition))
    return _table(lambda number: _edits(pipeline, pairs, number), EDIT_COUNTS, 1 if quick else RUNS)


def _table(see: Callable[[int], Iterator[Seen]], counts: Sequence[int], runs: int) -> list[dict]:
    """`see`: the images of every prompt in a run, by its number."""
    kept: dict[tuple[str, int], list[float]] = {}
    for number in range(runs):
        right: dict[tuple[str, int], list[bool]] = {}
        for verdicts, rewards in see(number):
            for reward, scores in {RANDOM: [0.0] * len(verdicts), **rewards}.items():
                for count in counts:
                    # Where no image has a score, the first is kept.
                    best = next(iter(ranking(scores[:count])), 0)
                    right.setdefault((reward, count), []).append(verdicts[best])
        for key, found in right.items():
            prompts = len(found)
            kept.setdefault(key, []).append(sum(found) / prompts)
    return [
        {
            "reward": reward, "best_of": count, "right_percent": 100 * statistics.mean(shares),
            "spread": 100 * statistics.stdev(shares) if len(shares) > 1 else None, "prompts": prompts,
            "seeds": len(shares),
        }
        for (reward, count), shares in kept.items()
    ]  # fmt: skip


def _images(pipeline: Pipeline, prompts: list, number: int) -> Iterator[Seen]:
    most = COUNTS[-1]
    for first in range(0, len(prompts), TOGETHER):
        batch = prompts[first : first + TOGETHER]
        texts = [prompt.text for prompt in batch for _ in range(most)]
        seeds = row_seeds(number * evaluation.SEED_STRIDE, len(texts), first * most)
        tokens = pipeline.generate_tokens(texts, seeds)
        likelihoods = _likelihoods(pipeline, tokens)
        images = render_each(pipeline, tokens, seeds, len(seeds), steps=evaluation.STEPS, guidance=evaluation.GUIDANCE)
        for place, prompt in enumerate(batch):
            rows, spec = slice(place * most, (place + 1) * most), spec_of(prompt.scene)
            made = Candidates(images[rows], [prompt.text] * most, meta=[{"spec": spec}] * most)
            verdicts = [judge_image(image.numpy(), spec).strict for image in made.images]
            yield verdicts, {JUDGE: _scores("tiny", made), LIKELIHOOD: likelihoods[rows]}


def _edits(pipeline: Pipeline, pairs: list, number: int) -> Iterator[Seen]:
    """`consistency` knows where each edit may change its image, as in training; the edits themselves have no mask."""
    most, settings = EDIT_COUNTS[-1], edit_evaluation.Settings()
    for first in range(0, len(pairs), TOGETHER):
        batch = [pair for pair in pairs[first : first + TOGETHER] for _ in range(most)]
        seeds = row_seeds(number * evaluation.SEED_STRIDE, len(batch), first * most)
        images, judged = edit_evaluation.judge_batch(pipeline, batch, seeds, settings, pipeline.reference_mode)
        for place in range(0, len(batch), most):
            edit, text = batch[place]
            rows, side = slice(place, place + most), pipeline.checkpoint.trained_side
            sources = [torch.from_numpy(rasterize(scene, side)) / 255 for scene in edit.sources]
            mask, own = torch.from_numpy(may_change(edit, side)).float(), map(torch.from_numpy, images[rows])
            made = Candidates(list(own), [text] * most, [sources] * most, [mask] * most, [{"edit": edit}] * most)
            yield (
                [verdict.strict for verdict in judged[rows]],
                {JUDGE: _scores("tiny", made), CONSISTENCY: _scores("consistency", made)},
            )


def _scores(reward: str, made: Candidates) -> list[float | None]:
    mix = read_rewards([reward])
    return mix.totals(mix.score(made))


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
