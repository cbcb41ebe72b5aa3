"""Judging the images of a run: a line for each image and scorer, nothing asked twice, what failed asked again.

A line names the image by the digest of its file, so an image that was made anew is judged anew.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Blip3oError, first_line, shown
from ..files import append_lines, atomic_write, naming_failures, read_bytes
from ..images.preprocess import to_tensor
from ..images.reader import MAX_BYTES, image_bytes, read_image
from ..rewards.interface import Candidates
from .interface import Scorer
from .plan import Row
from .run_folder import RunFolder

TOGETHER = 16  # images in a call; what they get is on the disk before the next call
_GIVE_UP = 3  # calls' worth of images in a row that could not be judged
_SLACK = 1e-6  # of rounding, beyond the ends of a measure

Key = tuple[str, int]  # (item, sample)


@dataclass(frozen=True)
class Judged:
    """What a scorer said of one image: measures, None where there is nothing to judge, or why it failed."""

    item: str
    sample: int
    sha256: str
    version: str
    measures: Mapping[str, float | None] | None
    failure: str | None = None

    @property
    def key(self) -> Key:
        return self.item, self.sample

    def line(self) -> str:
        about = {"item": self.item, "sample": self.sample, "sha256": self.sha256, "version": self.version}
        found = {"measures": self.measures} if self.failure is None else {"failure": self.failure}
        return json.dumps(about | found)


def score(
    folder: RunFolder,
    scorer: Scorer,
    rows: Sequence[Row],
    progress: Callable[[int, int, object], None] = lambda *_: None,
) -> list[Judged]:
    """Judge the images of `rows` that are there and were not judged yet -> all judgements, in the order of the rows.

    Raises Blip3oError where the scorer fails again and again: what was judged is kept.
    """
    path, version = folder.scores(scorer.name), str(scorer.version)
    with naming_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if hasattr(scorer, "keep_in"):
        scorer.keep_in(folder.kept(scorer.name))
    known = {one.key: one for one in read_scores(path)}
    digests = {(row.item.id, row.sample): _sha256(folder.image(row)) for row in rows if folder.image(row).is_file()}
    judged: dict[Key, Judged] = {}
    open_rows = []
    for row in rows:
        key = (row.item.id, row.sample)
        before = known.get(key)
        if before and before.failure is None and (before.sha256, before.version) == (digests.get(key), version):
            judged[key] = before
        elif key in digests:
            open_rows.append(row)
    # They may fail for ever, such as those that a judge refuses: they say nothing of the scorer.
    known_failures = {
        key for key, one in known.items() if one.failure and (one.sha256, one.version) == (digests.get(key), version)
    }
    failed, together = 0, getattr(scorer, "together", TOGETHER)
    for first in range(0, len(open_rows), together):
        part = open_rows[first : first + together]
        answers = [
            Judged(row.item.id, row.sample, digests[row.item.id, row.sample], version, *answer)
            for row, answer in zip(part, _asked(folder, scorer, part), strict=True)
        ]
        append_lines(path, [one.line() for one in answers])
        judged |= {one.key: one for one in answers}
        progress(first + len(part), len(open_rows), None)
        new = sum(one.key not in known_failures for one in answers)
        failed = failed + new if all(one.failure for one in answers) else 0
        if new and failed >= _GIVE_UP * together:
            reason = str(answers[-1].failure).rstrip(".")
            raise Blip3oError(
                f"The scorer {scorer.name!r} failed for {failed} images in a row; of the last one it says: {reason}. "
                "Correct that and run the same command again: what was judged is kept."
            )
    ordered = [judged[key] for row in rows if (key := (row.item.id, row.sample)) in judged]
    _write(path, [*ordered, *(one for key, one in known.items() if key not in judged)])
    return ordered


def read_scores(path: Path) -> list[Judged]:
    """The lines of a file of scores, none where there is none. A line that a kill cut short is left out."""
    if not path.is_file():
        return []
    found = []
    for line in read_bytes(path, "Move it away: its images are judged again.", MAX_BYTES).split(b"\n"):
        try:
            entry = json.loads(line)
            found.append(
                Judged(
                    entry["item"],
                    entry["sample"],
                    entry["sha256"],
                    entry["version"],
                    entry.get("measures"),
                    entry.get("failure"),
                )  # fmt: skip
            )
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _asked(
    folder: RunFolder, scorer: Scorer, rows: Sequence[Row]
) -> Iterator[tuple[Mapping[str, float | None] | None, str | None]]:
    """(measures, failure) of each image. What a scorer raises for all is the failure of each."""
    candidates = _candidates(folder, rows)
    try:
        answers: Sequence[Any] = scorer([row.item for row in rows], candidates)
        if len(answers) != len(rows):
            raise Blip3oError(f"{scorer.name} gave {len(answers)} answers for {len(rows)} images.")
    except Exception as error:  # a reward may be anybody's code; what it could not do is in the file of scores
        answers = [error] * len(rows)
    for answer in answers:
        if isinstance(answer, Exception):
            said = str(answer) if isinstance(answer, Blip3oError) else f"{type(answer).__name__}: {first_line(answer)}"
            yield None, shown(said, 2000)
        elif answer is None:
            yield None, None
        else:
            fault = _fault(answer, scorer.measures)
            yield (None, fault) if fault else (dict(answer), None)


def _fault(answer: Mapping[str, float | None], measures: Mapping[str, tuple[float, float]]) -> str:
    """What is wrong with the numbers of one image; "" where nothing is."""
    for name, value in answer.items():
        if name not in measures:
            return f"it gave a measure {name!r}, which is none of {', '.join(measures)}."
        low, high = measures[name]
        slack = _SLACK * max(1.0, *(abs(end) for end in (low, high) if math.isfinite(end)), 0)
        if value is not None and not (math.isfinite(value) and low - slack <= value <= high + slack):
            return f"it gave {name} {value}; its range is {low:g} to {high:g}."
    return ""


def _candidates(folder: RunFolder, rows: Sequence[Row]) -> Candidates:
    items = [row.item for row in rows]
    references = [[_pixels(one.read(), one.name) for one in item.references] for item in items]
    masks = [None if item.mask is None else item.mask() for item in items]
    images = [_pixels(image_bytes(path := folder.image(row)), str(path)) for row in rows]
    return Candidates(images, [item.prompt for item in items], references, masks, [item.meta for item in items])


def _pixels(data: bytes, name: str):
    return to_tensor(read_image(data, name).on_white())[0]


def _sha256(path: Path) -> str:
    return hashlib.sha256(image_bytes(path)).hexdigest()


def _write(path: Path, lines: Sequence[Judged]) -> None:
    """The file anew, in order and without lines that were answered again: the same bytes however a run was cut."""
    with naming_failures(path), atomic_write(path, durable=True) as scratch:  # answers may have cost money
        scratch.write_text("".join(f"{one.line()}\n" for one in lines), encoding="utf-8")
