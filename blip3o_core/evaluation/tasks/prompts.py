"""What tasks share whose images stand each for itself, and what is known of published files of prompts."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..interface import Item, Scorer


@dataclass(frozen=True)
class Published:
    """A benchmark's prompts at the time of writing, by which a cut or changed file is noticed."""

    repository: str  # on github.com
    commit: str
    count: int
    digest: str

    def note(self, items: Sequence[Item]) -> str:
        """How the prompts of a user's file compare with them, in a line."""
        source = f"{self.repository} at {self.commit[:7]}"
        if not self.difference(items):
            return f"# The {self.count:,} prompts in the file are those of {source}."
        if len(items) != self.count:
            return f"# The file has {len(items):,} prompts; {source} has {self.count:,}, which its numbers are of."
        return f"# Some prompts in the file are not those of {source}."

    def difference(self, items: Sequence[Item]) -> str:
        """How the prompts of a user's file differ, in a few words; "" where they do not."""
        if digest_of_prompts(items) == self.digest:
            return ""
        return f"{len(items):,} of {self.count:,} prompts" if len(items) != self.count else "changed prompts"


def digest_of_prompts(items: Sequence[Item]) -> str:
    """16 hex digits: equal for equal ids and prompts in any order."""
    lines = sorted(json.dumps([item.id, item.prompt]) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PromptTask:
    """A task without further files, scorers or weights: what a benchmark has of these, its class says."""

    items: Sequence[Item]
    name: str
    version: str = "1"
    samples: int = 1

    @property
    def published(self) -> Published | None:
        """None: not known here."""
        return None

    @property
    def weights(self) -> Mapping[str, float] | None:
        return None

    def file(self, item: Item, sample: int) -> PurePosixPath:
        return PurePosixPath(f"{item.id}-{sample}.png")

    def others(self, item: Item) -> Mapping[PurePosixPath, bytes]:
        return {}

    def finish(self, images: Path) -> None:
        pass

    def official(self, images: Path) -> str:
        return ""

    def scorers(self) -> Sequence[Scorer]:
        return []
