"""Results of an evaluation for people: tables as text, numbers as JSON, pictures in a grid."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ..checkpoint.bundled import display_name
from ..images.png import save_png
from ..pipeline import Pipeline
from .evaluation import AUTOENCODER, CODES, TRUE_CODES, WAYS, Result, Settings, failure_kind
from .judge.contact_sheet import make_contact_sheet
from .scenes.rasterize import rasterize
from .scenes.spec import Verdict
from .scenes.world import CATEGORIES

TITLES = {CODES: "sampled codes", TRUE_CODES: "true codes", AUTOENCODER: "autoencoder"}
RIGHT, WRONG = (0, 160, 60), (220, 30, 30)
_COLUMN = 20


def sentence(settings: Settings, texts: int) -> str:
    """What was asked, and how it was drawn."""
    phrasing = "any phrasing" if settings.any_phrasing else "plain phrasings"
    contrast = "all pairs of colours" if settings.low_contrast else "no colours of low contrast on each other"
    sampling, runs = settings.sampling, f"{settings.seeds} sampling seed{'s' * (settings.seeds > 1)}"
    return (
        f"{settings.count} prompts, split {settings.split}, {texts} different texts in {phrasing}\n"
        f"snapped places, {contrast}\n"
        f"{runs}, top-k {sampling.top_k}, top-p {sampling.top_p:g}, temperature {sampling.temperature:g}, "
        f"{settings.steps} steps, guidance {settings.guidance:g}"
    )


def table(results: list[Result]) -> str:
    """Shares in %, a pair of columns for each way."""
    first = results[0]
    lines = [sentence(first.settings, len({prompt.text for prompt in first.prompts})), ""]
    lines.append(_row("% right", [TITLES[result.way] for result in results], 2 * _COLUMN))
    lines.append(_row("", ["strict", "layout"] * len(results)))
    scores = [score for result in results for score in (result.by_category, result.layout)]
    lines += [_row(name, [_percent(score[name]) for score in scores]) for name in CATEGORIES]
    lines.append(_row("mean", [_percent(np.mean(list(score.values()))) for score in scores]))
    lines.append(_row("weakest", [_least(score) for score in scores]))
    over_seeds = [_over_seeds(result) for result in results if result.spread is not None]
    lines += ["", *over_seeds] if over_seeds else []
    kinds = list(dict.fromkeys(kind for result in results for kind in result.failures()))
    if kinds:
        lines += ["", _row("% of pictures with", [TITLES[result.way] for result in results], 2 * _COLUMN)]
        lines += [_row(kind, [_percent(r.failures().get(kind, 0.0)) for r in results], 2 * _COLUMN) for kind in kinds]
    return "\n".join([*lines, "", *(_seconds(result) for result in results)])


def _row(title: str, cells, width: int = _COLUMN) -> str:
    return f"{title:20}" + "".join(f"{cell:>{width}}" for cell in cells)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _least(score: dict[str, float]) -> str:
    name = min(score, key=score.get)
    return f"{name} {_percent(score[name])}"


def _over_seeds(result: Result) -> str:
    low, high = min(result.means), max(result.means)
    return (
        f"{TITLES[result.way]}: mean {_percent(result.mean)} +- {_percent(result.spread)} over "
        f"{len(result.means)} seeds ({_percent(low)} to {_percent(high)})"
    )


def _seconds(result: Result) -> str:
    batch = f"batches of {result.settings.batch}"
    return f"{TITLES[result.way]}: {split_seconds(result.seconds)} a picture, in {batch}"


def split_seconds(seconds: dict[str, float]) -> str:
    parts = ", ".join(f"{part} {value:.3f}" for part, value in seconds.items())
    return f"{sum(seconds.values()):.3f} s ({parts})"


def speed_line(seconds: dict[str, float], device: str) -> str:
    return f"one at a time, loaded, on {device}: {split_seconds(seconds)} a picture"


def device_of(pipeline: Pipeline) -> str:
    """Where it was measured, in words that hold for any machine of the kind."""
    if pipeline.device.type != "cpu":
        return str(pipeline.device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}"


def to_json(results: list[Result], pipeline: Pipeline, speed: dict[str, float] | None = None) -> dict:
    """Settings and every number; nothing of this machine's folders."""
    report = {
        "what": "tiny",
        "checkpoint": display_name(pipeline.checkpoint.folder),
        "weights": _digest(pipeline),
        "dtype": str(pipeline.language.connector[0].weight.dtype).removeprefix("torch."),
        "device": device_of(pipeline),
        "settings": asdict(results[0].settings) if results else {},
        "ways": {result.way: _numbers(result) for result in results},
    }
    return report | ({"seconds_one_at_a_time": speed} if speed else {})


def _digest(pipeline: Pipeline) -> str:
    digest = hashlib.sha256()
    for file in sorted({entry.file for entry in pipeline.checkpoint.table.values()}):
        with open(file, "rb") as weights:
            for chunk in iter(lambda: weights.read(2**20), b""):
                digest.update(chunk)
    return digest.hexdigest()


def _numbers(result: Result) -> dict:
    return {
        "mean": result.mean,
        "means": list(result.means),
        "spread": result.spread,
        "weakest": result.weakest,
        "strict": result.by_category,
        "layout": result.layout,
        "failures": result.failures(),
        "failures_by_category": {name: result.failures(name) for name in CATEGORIES},
        "pictures": len(result.prompts) * len(result.verdicts),
        "texts": len({prompt.text for prompt in result.prompts}),
        "seconds_in_batches": result.seconds,
    }


def grid(results: list[Result], columns: int = 6) -> np.ndarray:
    """(H, W, 3) uint8: a row a category, its first prompts, framed green where right, else red with what is wrong.

    Several ways stand side by side in a cell, behind the true picture.
    """
    ordered = sorted(results, key=lambda result: WAYS.index(result.way), reverse=True)
    first, side = ordered[0], ordered[0].pictures.shape[1]
    columns = min(columns, len(first.prompts) // len(CATEGORIES))
    pictures, captions = [], []
    for row in range(len(CATEGORIES)):
        for column in range(columns):
            index = row + column * len(CATEGORIES)
            prompt, verdicts = first.prompts[index], [result.verdicts[0][index] for result in ordered]
            cell = [_frame(result.pictures[index], v) for result, v in zip(ordered, verdicts, strict=True)]
            if len(results) > 1:
                cell = [np.pad(rasterize(prompt.scene, side), ((2, 2), (2, 2), (0, 0)), constant_values=255), *cell]
            pictures.append(np.hstack(cell))
            captions.append(f"{prompt.text}: {_said(verdicts[-1])}")
    width = min(192 * pictures[0].shape[1] // pictures[0].shape[0], 480)
    return make_contact_sheet(pictures, captions, columns, width)


def save_grid(path: Path, results: list[Result]) -> None:
    save_png(path, torch.from_numpy(grid(results).copy()) / 255, {"settings": asdict(results[0].settings)})


def _said(verdict: Verdict) -> str:
    kinds = dict.fromkeys(map(failure_kind, verdict.reasons))
    return "right" if verdict.strict else f"WRONG, {', '.join(kinds)}"


def _frame(picture: np.ndarray, verdict: Verdict) -> np.ndarray:
    framed = np.full((picture.shape[0] + 4, picture.shape[1] + 4, 3), RIGHT if verdict.strict else WRONG, np.uint8)
    framed[2:-2, 2:-2] = picture
    return framed
