"""What rewards say of images in a graph, and the best images by that."""

import logging
from collections.abc import Sequence

import comfy.model_management
import torch

from ...blip3o_core.errors import Blip3oError
from ...blip3o_core.rewards.best_of import ranking, read_rewards
from ...blip3o_core.rewards.interface import Candidates
from ...blip3o_core.tokens.image_tokens import ImageTokens
from . import notes, reward_files

MOST_SHOWN = 64  # scores in a note


def candidates_of(
    images: list[torch.Tensor],
    prompts: Sequence[str],
    tokens: list[ImageTokens] | None,
    references: list[torch.Tensor] | None,
    masks: list[torch.Tensor] | None,
) -> Candidates:
    """Every image of a list of batches. Entry k of the other lists belongs to batch k; a single entry to all."""
    count = len(images)
    given = {"prompt": list(prompts), "tokens": tokens, "reference": references, "mask": masks}
    lists = {name: _one_each(name, values or [None], count) for name, values in given.items()}
    found: dict[str, list] = {"images": [], "prompts": [], "references": [], "masks": []}
    for k, batch in enumerate(images):
        prompt, rows, before, mask = (lists[name][k] for name in given)
        found["images"] += _pixels(batch)
        found["prompts"] += _prompts(prompt or "", rows, len(batch))
        found["references"] += [() if before is None else _pixels(before)] * len(batch)
        found["masks"] += _masks(mask, len(batch))
    return Candidates(**found)


def score(
    candidates: Candidates, reward: str, weight: float, before: list[float | None] | None
) -> tuple[list[float | None], str]:
    """A number for each image, and all of them as text. `before`: scores that are added."""
    count = len(candidates.images)
    if before is not None and len(before) != count:
        raise Blip3oError(
            f"There are {len(before)} scores for {count} images. Connect scores of the same images, or none."
        )
    mix = read_rewards([reward_files.entry(reward)])
    notes.show(f"Scoring {count} image{'s' * (count > 1)} by {reward}")
    given = mix.score(candidates, comfy.model_management.throw_exception_if_processing_interrupted)
    own = mix.totals(given)
    totals = _added(before, [None if value is None else weight * value for value in own])
    text = "\n".join([described(totals), *given.problems])
    missing = [str(k) for k, value in enumerate(own, 1) if value is None]
    if missing:
        which = "any image" if len(missing) == count else f"image {', '.join(missing)}"
        reason = "." if given.problems else ": the prompt or the inputs do not ask for it."
        text += f"\nThe reward '{reward}' has no score for {which}{reason}"
    notes.tell([text], logging.WARNING if given.problems else logging.INFO)
    return totals, text


def described(scores: Sequence[float | None]) -> str:
    """ "Best: image 2 of 3. Scores: 0.5, 0.93, none"."""
    order, more = ranking(scores), "" if len(scores) <= MOST_SHOWN else ", ..."
    best = f"Best: image {order[0] + 1} of {len(scores)}. " if order else ""
    shown = ", ".join("none" if each is None else f"{each:.3g}" for each in scores[:MOST_SHOWN])
    return f"{best}Scores: {shown}{more}"


def pick(
    images: list[torch.Tensor], scores: list[float | None] | None, count: int, group: int
) -> tuple[torch.Tensor, list[float | None], list[int]]:
    """(the best images of each group, their scores, their places)."""
    every = [image for batch in images for image in batch]
    if scores is None:
        raise Blip3oError(
            "No image has a score, so none is the best. Look at the note on BLIP3o Score Images: another reward, or a "
            "prompt that asks for what it judges, gives scores."
        )
    if len(scores) != len(every):
        raise Blip3oError(
            f"There are {len(scores)} scores for {len(every)} images. Connect the images that were scored."
        )
    each = group or len(every)
    if len(every) % each:
        raise Blip3oError(
            f"group is {group}, but {len(every)} images cannot be split into groups of {group}. Set it to the "
            "batch_size of BLIP3o Token Generator, or to 0."
        )
    if count > each:
        raise Blip3oError(f"count is {count}, but there are {each} images to choose from. Choose 1 to {each}.")
    places = [place for first in range(0, len(every), each) for place in _best(scores, first, each, count)]
    best = [every[place] for place in places]
    if len({image.shape for image in best}) > 1:
        sizes = ", ".join(dict.fromkeys(f"{image.shape[1]}x{image.shape[0]}" for image in best))
        raise Blip3oError(
            f"The best {len(best)} images have different sizes ({sizes}) and do not fit into one batch. Set count to "
            "1, or give all images the same size before this node."
        )
    return torch.stack(best), [scores[place] for place in places], places


def _best(scores: list[float | None], first: int, each: int, count: int) -> list[int]:
    own = scores[first : first + each]
    order = ranking(own)
    if not order:
        raise Blip3oError(
            f"None of the images {first + 1} to {first + each} has a score, so none is the best. Give them a prompt "
            "that the reward judges, or another reward."
        )
    order += [place for place, value in enumerate(own) if value is None]
    return [first + place for place in order[:count]]


def _added(before: list[float | None] | None, own: list[float | None]) -> list[float | None]:
    """A sum for each image. Without a number in one list there is none, unless that list has no number at all."""
    lists = [each for each in (before, own) if each is not None and any(value is not None for value in each)]
    if not lists:
        return own
    return [None if None in values else float(sum(values)) for values in zip(*lists, strict=True)]


def _one_each(name: str, values: list, count: int) -> list:
    if len(values) not in (1, count):
        raise Blip3oError(
            f"{name} is a list of {len(values)}, and images a list of {count}. Connect one {name} for all, or one for "
            "each entry of the list."
        )
    return values * count if len(values) == 1 else values


def _pixels(batch: torch.Tensor) -> list[torch.Tensor]:
    return list(batch[..., :3].detach().float().cpu().clamp(0, 1))


def _prompts(prompt: str, tokens: ImageTokens | None, count: int) -> list[str]:
    if prompt.strip() or tokens is None:
        return [prompt] * count
    if len(tokens) not in (1, count):
        raise Blip3oError(
            f"There are {len(tokens)} rows in tokens and {count} images. Connect the tokens that these images were "
            "rendered from, or write a prompt."
        )
    return list(tokens.prompts) * (count if len(tokens) == 1 else 1)


def _masks(mask: torch.Tensor | None, count: int) -> list[torch.Tensor | None]:
    if mask is None:
        return [None] * count
    rows = (mask if mask.ndim == 3 else mask[None]).detach().float().cpu()
    if len(rows) not in (1, count):
        raise Blip3oError(f"There are {len(rows)} masks for {count} images. Connect one mask, or one for each image.")
    return list(rows) * (count if len(rows) == 1 else 1)
