"""What reading the data found that a user should know before hours of training: nothing is left out without a word."""

from collections import Counter
from dataclasses import dataclass, field

_MOST = 8  # reasons that are named


@dataclass
class Notes:
    """About one source of `data`."""

    unused: Counter[str] = field(default_factory=Counter)  # why members of shards, or files, are not used
    empty: int = 0  # captions without text
    unended: int = 0  # shards without an end mark

    def lines(self, source: str) -> list[str]:
        lines = []
        if self.unused:
            reasons = [f"{count:,} {reason}" for reason, count in self.unused.most_common(_MOST)]
            more = ", ..." if len(self.unused) > _MOST else ""
            lines.append(f"{counted(self.unused.total(), 'file')} not used ({', '.join(reasons)}{more})")
        if self.empty:
            lines.append(f"{counted(self.empty, 'caption')} without text: these images are reconstructions")
        if self.unended:
            lines.append(f"{counted(self.unended, 'shard')} without an end mark, perhaps cut short")
        return [f"{source}: {line}" for line in lines]


def counted(count: int, word: str) -> str:
    """ "1 image", "2,000 images"."""
    return f"{count:,} {word}" + "s" * (count != 1)
