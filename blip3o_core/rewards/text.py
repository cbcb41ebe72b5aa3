"""Text rendering: how much of the text in a prompt's quotation marks stands in the image. Read by rapidocr.

rapidocr (extra `ocr`) brings its networks in its package, and nothing is downloaded.
"""

import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..errors import Blip3oError, did_you_mean, shown
from .text_rule import RULES, quoted_spans, score_as_authors, score_text

SIDE = 512  # px; rapidocr's own is 736, which takes longer and reads about as well: docs/rewards.md
SMALL_SIDE = 320  # px; letters of smaller images are enlarged before they are read
MAX_ASPECT = 4  # narrower images get a margin
LARGE_SIDE = 2000  # px; rapidocr makes larger images smaller
_PACKAGES = {"rapidocr": "rapidocr", "onnxruntime": "onnxruntime"}
_NETWORKS = {"Det.model_path": "*_det_*.onnx", "Rec.model_path": "*_rec_*.onnx"}


class TextReward:
    """0 to 1; None for a prompt without quotation marks. `rule` "spans" or "authors": see `text_rule`."""

    name = "text"
    range = (0.0, 1.0)

    def __init__(self, rule: str = "spans", case: bool = False, side: int = SIDE, threads: int = 0):
        if rule not in RULES:
            hint = did_you_mean(rule, RULES) if isinstance(rule, str) else ""
            raise Blip3oError(f"rule is {shown(repr(rule))}. {hint or 'Use spans or authors.'}")
        if not isinstance(case, bool):
            raise Blip3oError(f"case is {shown(repr(case))}. Use true where capital letters count, else false.")
        if case and rule == "authors":
            raise Blip3oError('case is true, but the rule "authors" ignores capital letters. Use the rule "spans".')
        for name, value, least, most in (("side", side, 32, 2000), ("threads", threads, 0, 1024)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise Blip3oError(f"{name} is {shown(repr(value))}. Give a whole number from {least} to {most}.")
        _require_packages()
        self.rule, self.case, self.side, self.threads = rule, case, side, threads
        self.version = f"1 ({rule}{', case' * case}, side {side}, rapidocr {metadata.version('rapidocr')})"
        self._engine: Any = None
        self._told = False

    def __getstate__(self) -> dict:  # for other processes, each of which loads the networks itself
        return {**vars(self), "_engine": None}

    def __call__(
        self,
        images: Sequence[torch.Tensor],
        prompts: Sequence[str],
        references: Sequence[Sequence[torch.Tensor]],
        masks: Sequence[torch.Tensor | None],
        meta: Sequence[Mapping[str, Any]],
    ) -> list[float | None]:
        return [self._score(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def _score(self, image: torch.Tensor, prompt: str) -> float | None:
        spans = quoted_spans(prompt)
        if not ('"' in prompt if self.rule == "authors" else spans):
            self._tell(prompt)
            return None
        read = self.read(image)
        return score_as_authors(prompt, read) if self.rule == "authors" else score_text(spans, read, self.case)

    def _tell(self, prompt: str) -> None:
        if not self._told:
            self._told = True
            logging.getLogger(__name__).info(
                "BLIP3o: the reward for text does not judge prompts without text in quotation marks, such as '%s'",
                shown(prompt, 80),
            )

    def read(self, image: torch.Tensor) -> list[str]:
        """The texts in an image, (H, W, 3) in [0, 1], in reading order."""
        if self._engine is None:
            self._engine = _load(self.side, self.threads)
        result = self._engine(_pixels(image), use_cls=False)
        texts, boxes = getattr(result, "txts", None), getattr(result, "boxes", None)
        if not texts or boxes is None:
            return []
        return [texts[place] for place in reading_order(np.asarray(boxes, np.float64))]


def reading_order(boxes: np.ndarray) -> list[int]:
    """(n, 4, 2) corners -> the places of the boxes, line by line, each line from the left.

    A box is in a line where its middle is between the top and the bottom of the line's highest box.
    """
    middles = boxes.mean(1)
    lines: list[list[int]] = []
    for place in np.argsort(middles[:, 1], kind="stable").tolist():
        first = boxes[lines[-1][0], :, 1] if lines else None
        if first is not None and first.min() <= middles[place, 1] <= first.max():
            lines[-1].append(place)
        else:
            lines.append([place])
    return [place for line in lines for place in sorted(line, key=lambda one: middles[one, 0])]


def _pixels(image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) in [0, 1], RGB -> (H, W, 3) uint8, BGR, enlarged where it is small, wider where it is narrow."""
    image = image.float().permute(2, 0, 1)[None]
    height, width = image.shape[2:]
    scale = min(SMALL_SIDE / min(height, width), LARGE_SIDE / max(height, width))
    if scale > 1:
        height, width = (max(1, round(side * scale)) for side in (height, width))
        image = functional.interpolate(image, (height, width), mode="bicubic")
    # rapidocr makes the shorter side `side` px long, however long the other one then is.
    least = math.ceil(max(height, width) / MAX_ASPECT)
    image = functional.pad(image, (0, max(0, least - width), 0, max(0, least - height)), mode="replicate")
    pixels = (image[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.cpu().numpy()[..., ::-1])


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Blip3oError(
            f"The reward 'text' needs the package {' and '.join(missing)} to read images. Install it with "
            "pip install -e '.[ocr]' in the folder of this project."
        )


def _load(side: int, threads: int):
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    networks = {}
    for name, pattern in _NETWORKS.items():
        found = sorted(folder.glob(pattern))
        if len(found) != 1:  # naming the file is what keeps rapidocr from downloading one
            raise Blip3oError(
                f"rapidocr {metadata.version('rapidocr')} has {len(found)} networks {pattern} in {folder}; one is "
                "needed. Install rapidocr 3.10 again."
            )
        networks[name] = str(found[0])
    options = {"Global.log_level": "error", "Global.use_cls": False, "Det.limit_side_len": side}
    threading = {"EngineConfig.onnxruntime.intra_op_num_threads": threads or -1}
    return rapidocr.RapidOCR(params={**options, **threading, **networks})
