"""Results of an evaluation for people: tables as text, numbers as JSON, images in a grid."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ..checkpoint.bundled import display_name
from ..images.png import save_png
from ..pipeline import Pipeline
from ..reports.contact_sheet import make_contact_sheet
from .evaluation import AUTOENCODER, CODES, SOURCES, TRUE_CODES, Result, Settings, failure_kind
from .scenes.rasterize import rasterize
from .scenes.spec import Verdict
from .scenes.world import UNITS

TITLES = {CODES: "sampled codes", TRUE_CODES: "true codes", AUTOENCODER: "autoencoder"}
RIGHT, WRONG = (0, 160, 60), (220, 30, 30)
_COLUMN = 20


def describe(settings: Settings, texts: int) -> str:
    """What was asked for and how the images were made. `texts`: number of different prompts."""
    phrasing = "any phrasing" if settings.any_phrasing else "plain phrasings"
    contrast = "all pairs of colours" if settings.low_contrast else "no colours of low contrast on each other"
    sampling, runs = settings.sampling, f"{settings.seeds} sampling seed{'s' * (settings.seeds > 1)}"
    return (
        f"{settings.count} prompts, split {settings.split}, {texts} different texts in {phrasing}\n"
        f"snapped positions, {contrast}\n"
        f"{runs}, top-k {sampling.top_k}, top-p {sampling.top_p:g}, temperature {sampling.temperature:g}, "
        f"{settings.steps} steps, guidance {settings.guidance:g}"
    )


def table(results: list[Result]) -> str:
    """The results as text: scores in %, a pair of columns (strict and layout) for each source."""
    first = results[0]
    sections = [
        [describe(first.settings, len({prompt.text for prompt in first.prompts}))],
        _score_rows(results),
        [_spread_line(result) for result in results if result.spread is not None],
        _failure_rows(results),
        [_seconds_line(result) for result in results],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _score_rows(results: list[Result]) -> list[str]:
    scores = []
    for result in results:
        scores += [result.strict, result.layout]
    rows = [
        _row("% right", (TITLES[result.source] for result in results), 2 * _COLUMN),
        _row("", ["strict", "layout"] * len(results)),
    ]
    for category in results[0].settings.world.categories:
        rows.append(_row(category, (_percent(score[category]) for score in scores)))
    rows.append(_row("mean", (_percent(float(np.mean(list(score.values())))) for score in scores)))
    rows.append(_row("weakest", map(_weakest, scores)))
    return rows


def _failure_rows(results: list[Result]) -> list[str]:
    failures = [result.failures() for result in results]
    kinds = dict.fromkeys(kind for one in failures for kind in one)  # a set that keeps the order
    if not kinds:
        return []
    rows = [_row("% of images with", (TITLES[result.source] for result in results), 2 * _COLUMN)]
    for kind in kinds:
        rows.append(_row(kind, (_percent(one.get(kind, 0.0)) for one in failures), 2 * _COLUMN))
    return rows


def _row(title: str, cells: Iterable[str], width: int = _COLUMN) -> str:
    return f"{title:20}" + "".join(f"{cell:>{width}}" for cell in cells)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _weakest(score: dict[str, float]) -> str:
    name = min(score, key=score.get)
    return f"{name} {_percent(score[name])}"


def _spread_line(result: Result) -> str:
    low, high = min(result.means), max(result.means)
    return (
        f"{TITLES[result.source]}: mean {_percent(result.mean)} +- {_percent(result.spread)} over "
        f"{len(result.means)} seeds ({_percent(low)} to {_percent(high)})"
    )


def _seconds_line(result: Result) -> str:
    batch = f"batches of {result.settings.batch}"
    return f"{TITLES[result.source]}: {split_seconds(result.seconds)} per image, in {batch}"


def split_seconds(seconds: dict[str, float]) -> str:
    parts = ", ".join(f"{part} {value:.3f}" for part, value in seconds.items())
    return f"{sum(seconds.values()):.3f} s ({parts})"


def speed_line(seconds: dict[str, float], device: str) -> str:
    return f"one image at a time, model loaded, on {device}: {split_seconds(seconds)} per image"


def device_of(pipeline: Pipeline) -> str:
    """Where it was measured, in words that hold for any machine of the kind."""
    if pipeline.device.type != "cpu":
        return str(pipeline.device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' * (threads > 1)}"


def to_json(results: list[Result], pipeline: Pipeline, speed: dict[str, float] | None = None) -> dict:
    """Settings and all numbers. No path of this machine is among them."""
    report = {
        "what": "tiny",
        "checkpoint": display_name(pipeline.checkpoint.folder),
        "weights": _weights_digest(pipeline),
        "dtype": str(pipeline.language.connector[0].weight.dtype).removeprefix("torch."),
        "device": device_of(pipeline),
        "settings": asdict(results[0].settings) if results else {},
        "sources": {result.source: _numbers(result) for result in results},
    }
    return report | ({"seconds_one_at_a_time": speed} if speed else {})


def _weights_digest(pipeline: Pipeline) -> str:
    """sha256 of the files that hold the checkpoint's tensors."""
    digest = hashlib.sha256()
    for file in sorted({entry.file for entry in pipeline.checkpoint.tensors.values()}):
        with open(file, "rb") as weights:
            while chunk := weights.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()


def _numbers(result: Result) -> dict:
    return {
        "mean": result.mean,
        "means": list(result.means),
        "spread": result.spread,
        "weakest": result.weakest,
        "strict": result.strict,
        "layout": result.layout,
        "failures": result.failures(),
        "failures_by_category": {name: result.failures(name) for name in result.settings.world.categories},
        "images": len(result.prompts) * len(result.verdicts),
        "texts": len({prompt.text for prompt in result.prompts}),
        "seconds_in_batches": result.seconds,
    }


def grid(results: list[Result], columns: int = 6) -> np.ndarray:
    """(H, W, 3) uint8: the first images of each category in a row, in a green frame if right, else in a red one.

    With several sources, a cell shows the true image and then one image per source.
    """
    ordered = sorted(results, key=lambda result: SOURCES.index(result.source), reverse=True)
    first = ordered[0]
    tallest = max(prompt.scene.canvas[1] for prompt in first.prompts)
    side = round(first.images.shape[1] * UNITS / tallest)  # of a square image
    rows = len(first.settings.world.categories)
    columns = min(columns, len(first.prompts) // rows)
    images, captions = [], []
    for row in range(rows):
        for column in range(columns):
            index = row + column * rows
            prompt = first.prompts[index]
            cell = [_frame(result.images[index], result.verdicts[0][index]) for result in ordered]
            if len(results) > 1:
                true, frame = rasterize(prompt.scene, side), np.full_like(cell[0], 255)
                frame[2 : 2 + true.shape[0], 2 : 2 + true.shape[1]] = true
                cell.insert(0, frame)
            images.append(np.hstack(cell))
            captions.append(f"{prompt.text}: {_summary(ordered[-1].verdicts[0][index])}")
    width = min(192 * images[0].shape[1] // images[0].shape[0], 480)
    return make_contact_sheet(images, captions, columns, width)


def save_grid(path: Path, results: list[Result]) -> None:
    save_png(path, torch.from_numpy(grid(results).copy()) / 255, {"settings": asdict(results[0].settings)})


def _summary(verdict: Verdict) -> str:
    kinds = dict.fromkeys(map(failure_kind, verdict.reasons))
    return "right" if verdict.strict else f"WRONG, {', '.join(kinds)}"


def _frame(image: np.ndarray, verdict: Verdict) -> np.ndarray:
    framed = np.full((image.shape[0] + 4, image.shape[1] + 4, 3), RIGHT if verdict.strict else WRONG, np.uint8)
    framed[2:-2, 2:-2] = image
    return framed
