"""New texts for samples: what is asked, what was answered before, and what becomes of the old texts.

Every answer is kept as it came, in a file for each piece, so that nothing is asked twice. Without a usable answer a
sample keeps the texts it has.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...errors import Blip3oError, first_line, shown
from ...rewards.answers import AnswerFile
from ..sample import Sample
from ..settings import CaptionSettings, CurationSettings
from ..work import Work
from .judges import PATIENCE
from .writers import Ask, Writer, Written, usable

CAPTIONS = "captions"  # the model, as faults name it
_CUT = " cut"  # ends the key of an answer for which a model used up its tokens


@dataclass(frozen=True)
class Texts:
    """The texts of a sample from now on, and what kept it from others."""

    texts: tuple[str, ...]
    faults: tuple[str, ...] = ()
    again: bool = False  # there was no answer, for a reason that may pass


class Captions:
    """The texts of one piece. `faulty`: calls in a row in which nothing was answered."""

    def __init__(self, captions: CaptionSettings, answers: AnswerFile):
        self._settings, self._answers, self._faulty = captions, answers, 0

    def __call__(self, samples: Sequence[Sample]) -> list[Texts]:
        """The texts of each of these samples, all of which can be read."""
        asks = [[Ask(kind, sample) for kind in self._kinds(sample)] for sample in samples]
        answers = iter(self._answered([ask for some in asks for ask in some]))
        return [
            self._texts(sample, [(ask.kind, next(answers)) for ask in some])
            for sample, some in zip(samples, asks, strict=True)
        ]

    def _kinds(self, sample: Sample) -> list[str]:
        if sample.texts and self._settings.mode == "missing":
            return []
        return [kind for kind in self._settings.write if (kind == "instruction") == bool(sample.references)]

    def _texts(self, sample: Sample, answers: Sequence[tuple[str, Written | Exception]]) -> Texts:
        new: list[str] = []
        faults: list[str] = []
        for kind, answer in answers:
            try:
                if isinstance(answer, Exception):
                    raise answer
                new.append(usable(answer))
            except Exception as error:
                said = f" It was: {shown(answer.text, 200)}" if isinstance(answer, Written) else ""
                faults.append(f"{CAPTIONS}: {kind}: {_reason(error)}{said}")
        again = any(isinstance(answer, Exception) for _, answer in answers)
        if not new:
            return Texts(sample.texts, tuple(faults), again)
        old = () if self._settings.mode == "replace" else sample.texts
        return Texts(tuple(dict.fromkeys((*old, *new))), tuple(faults), again)

    def _answered(self, asks: Sequence[Ask]) -> list[Written | Exception]:
        """An answer to each question, from the file where it was answered before."""
        if not asks:
            return []
        version = writer(self._settings).version
        keys = [ask.key(version) for ask in asks]
        found: dict[str, Written | Exception] = {key: one for key in keys if (one := self._known(key)) is not None}
        left = {key: ask for key, ask in zip(keys, asks, strict=True) if key not in found}
        if left:
            outcome = self._ask(list(left.values()))
            for key, answer in zip(left, outcome, strict=True):
                found[key] = answer
                if isinstance(answer, Written):
                    self._keep(key, answer, left[key], version)
        return [found[key] for key in keys]

    def _ask(self, asks: list[Ask]) -> Sequence[Written | Exception]:
        if self._faulty >= PATIENCE:
            why = f"It was not asked, because nothing was answered {PATIENCE} times in a row before."
            return [Blip3oError(why)] * len(asks)
        try:
            outcome = writer(self._settings)(asks)
        except Exception as error:
            outcome = [error] * len(asks)
        self._faulty = 0 if any(isinstance(one, Written) for one in outcome) else self._faulty + 1
        return outcome

    def _known(self, key: str) -> Written | None:
        for ending in ("", _CUT):
            if texts := self._answers.texts(key + ending):
                return Written(texts[0], bool(ending))
        return None

    def _keep(self, key: str, answer: Written, ask: Ask, version: str) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        facts = {"kind": ask.kind, "place": ask.sample.place, "model": version, "time": when}
        self._answers.add(key + _CUT * answer.cut, answer.text, facts)


def captions_of(settings: CurationSettings, piece: str) -> Captions | None:
    """What writes the texts of a piece; None: nothing does."""
    if settings.captions is None:
        return None
    path = Work(Path(settings.out)).answers(piece)
    path.parent.mkdir(parents=True, exist_ok=True)
    return Captions(settings.captions, AnswerFile(path))


def writer(captions: CaptionSettings) -> Writer:
    """What writes; it stays in memory for the next piece. Raises Blip3oError."""
    return _load(captions.model_dump_json())


def forget_writer() -> None:
    """A model may have changed since the last curation of this process."""
    _load.cache_clear()


@lru_cache(maxsize=4)
def _load(settings: str) -> Writer:
    captions = CaptionSettings.model_validate_json(settings)
    if captions.use == "chat":
        from .chat import ChatWriter

        return ChatWriter(**captions.options)
    from .local import LocalWriter

    return LocalWriter(captions.write, **captions.options)


def _reason(error: Exception) -> str:
    words = str(error) if isinstance(error, Blip3oError) else f"{type(error).__name__}: {first_line(error)}"
    return shown(words, 600)
