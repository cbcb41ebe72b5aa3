"""What writes texts for samples, and the questions that it may be asked."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ...errors import Blip3oError
from ..sample import Sample
from ..settings import MOST_CHARACTERS
from .judges import seen

if TYPE_CHECKING:
    from PIL.Image import Image

PROMPTS = {
    "long": "Describe this image in one paragraph: what is seen, where it is, colours, style and light. Name only what "
    "can be seen. Answer with the description alone.",
    "short": "Describe this image in one short sentence of at most 20 words. Answer with the sentence alone.",
    "instruction": "The last image was made from the ones before it. Write the instruction, in one sentence, that asks "
    "for exactly this change, as a user would write it. Answer with the instruction alone.",
}


@dataclass(frozen=True)
class Ask:
    """A text that is wanted of a sample."""

    kind: str  # see PROMPTS
    sample: Sample

    def images(self) -> "list[Image]":
        """What is looked at: the references of an edit, then the image. Raises Blip3oError."""
        return [seen(data, self.sample.place) for data in self._files()]

    def key(self, version: str) -> str:
        """A name for the question: the same for the same images, whoever asks."""
        hashes = [hashlib.sha256(data).hexdigest() for data in self._files()]
        return hashlib.sha256(json.dumps([version, self.kind, hashes]).encode()).hexdigest()

    def _files(self) -> tuple[bytes, ...]:
        references = self.sample.references if self.kind == "instruction" else ()
        return *references, self.sample.image


@dataclass(frozen=True)
class Written:
    """An answer as it came."""

    text: str
    cut: bool = False  # the model used up its tokens


class Writer(Protocol):
    """Answers questions about images, some at a time."""

    version: str  # another one when it may write another text

    def __call__(self, asks: Sequence[Ask]) -> Sequence[Written | Exception]:
        """For each question the answer, or what kept it from one."""
        ...


def usable(answer: Written) -> str:
    """The text of an answer. Raises Blip3oError for one that is no text for an image."""
    text = answer.text.strip()
    if answer.cut:
        raise Blip3oError("The model used up its tokens before it was done. Raise most_tokens.")
    if len(text) >= 2 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1].strip()  # some models quote what they were asked to write
    if not any(map(str.isalpha, text)):
        raise Blip3oError("The model answered without a word. Try another model, or other prompts.")
    if len(text) > MOST_CHARACTERS or not all(one.isprintable() or one.isspace() for one in text):
        raise Blip3oError("The model answered with something else than readable text. Try another model.")
    return " ".join(text.split())
