"""What every reader gives and every pass takes: one sample as bytes and texts, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["image", "edit", "composition", "reconstruction"]
KINDS: tuple[Kind, ...] = ("image", "edit", "composition", "reconstruction")


@dataclass(frozen=True)
class Sample:
    """One sample as it was found; its images are the bytes of their files, not yet decoded."""

    key: str  # unique in its piece, and safe as a file name
    place: str  # where a person finds it, such as `shard.tar:0001.jpg`
    image: bytes  # the target
    references: tuple[bytes, ...] = ()
    texts: tuple[str, ...] = ()  # captions, or instructions where there are references
    meta: Mapping[str, Any] = field(default_factory=dict)  # what the source says besides

    @property
    def kind(self) -> Kind:
        """A composition has two references or more; a reconstruction has no text."""
        if not self.texts:
            return "reconstruction"
        return ("image", "edit", "composition")[min(len(self.references), 2)]


@dataclass(frozen=True)
class Broken:
    """A member, row or file that no sample could be made of. The others of its piece are read all the same."""

    place: str
    reason: str
