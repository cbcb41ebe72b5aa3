"""A question to a judge as a benchmark asks it: messages of texts and images, and what its answer means."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import Blip3oError
from ...rewards.chat import image_part, text_part

if TYPE_CHECKING:
    from PIL.Image import Image


class Unusable(Blip3oError):
    """An answer that is not what a judge was asked for."""


@dataclass(frozen=True)
class Attached:
    """An image file of a message. `digest` is of what the judge sees, whatever packs it."""

    digest: str
    kind: str  # such as image/png
    data: Callable[[], bytes] = field(repr=False)


@dataclass(frozen=True)
class Query:
    """One question. `read`: what an answer means; raises Unusable."""

    name: str
    messages: Sequence[tuple[str, Sequence[str | Attached]]]  # (role, parts in their order)
    read: Callable[[str], Any]

    def key(self, asked: object) -> str:
        """Another one for other messages, images, or another `asked`: the model and what else is sent."""
        seen = [
            [role, [part if isinstance(part, str) else {"image": part.digest} for part in parts]]
            for role, parts in self.messages
        ]
        return hashlib.sha256(json.dumps([asked, seen], sort_keys=True).encode()).hexdigest()

    def facts(self) -> dict:
        """What was asked, for the file of answers: the digests of the texts and images in their order."""
        parts = [part for _, parts in self.messages for part in parts]
        texts = [
            hashlib.sha256(part.encode("utf-8", "surrogatepass")).hexdigest() for part in parts if isinstance(part, str)
        ]
        return {
            "question": self.name,
            "texts": texts,
            "images": [part.digest for part in parts if isinstance(part, Attached)],
        }

    def to_chat(self) -> list[dict]:
        return [{"role": role, "content": list(map(_to_part, parts))} for role, parts in self.messages]


def _to_part(part: str | Attached) -> dict:
    return text_part(part) if isinstance(part, str) else image_part(part.data(), part.kind)


def as_it_is(data: bytes) -> Attached:
    """An image file, sent as it is."""
    kinds = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp", b"GIF8": "image/gif"}
    kind = next((kind for start, kind in kinds.items() if data.startswith(start)), "image/png")
    return Attached(hashlib.sha256(data).hexdigest(), kind, lambda: data)


def as_png(image: "Image") -> Attached:
    return _packed(image, "PNG")


def as_jpeg(image: "Image") -> Attached:
    """With Pillow's own quality, 75."""
    return _packed(image, "JPEG")


def _packed(image: "Image", form: str) -> Attached:
    def data() -> bytes:
        file = io.BytesIO()
        image.save(file, form)
        return file.getvalue()

    # Of the pixels, because another release of Pillow may pack them into another file.
    seen = f"{form} {image.mode} {image.size} ".encode() + image.tobytes()
    return Attached(hashlib.sha256(seen).hexdigest(), f"image/{form.lower()}", data)
