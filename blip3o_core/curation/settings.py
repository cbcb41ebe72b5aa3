"""The settings of one curation, read from YAML and checked before a file is read.

Sources, judges and captions decide what is measured; all others only decide what is kept and written.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..rewards.settings import Name, RewardSettings
from ..settings import (
    Count,
    Finite,
    Flag,
    Folder,
    Fraction,
    NotNegative,
    Positive,
    Settings,
    Strict,
    Text,
    Texts,
    Whole,
    load_settings,
)

Bits = Annotated[Whole, Field(le=64)]  # a distance of two perceptual hashes
Limit = Annotated[NotNegative, Field(le=1e9)]
Pixels = Annotated[Whole, Field(le=10**6)]
Amount = Annotated[Whole, Field(le=10**9)]


class SourceSettings(Strict):
    """One place that samples come from. A path alone is `{path: ...}`."""

    path: Folder
    name: Name | None = None  # in the report, and in the names of shards; None: the path's last part
    weight: Annotated[Positive, Field(le=1e6)] | None = None  # its share of training; None: by its size
    options: dict[str, Any] = Field(default_factory=dict)  # the reader's own

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class KeepSettings(Strict):
    """Limits on a sample's target and its texts. 0, or None, turns a limit off."""

    min_side: Pixels = 256  # pixels of the shorter side
    max_aspect: Limit = 4.0  # the longer side divided by the shorter
    blur: Limit = 20.0  # least variance of the Laplacian: below it an image is blurred or empty
    max_clipped: Fraction = 0.9  # largest share of pixels that are almost black or almost white
    contrast: Limit = 4.0  # least standard deviation of the greys, of 255
    colourfulness: Limit = 0.0  # least, by Hasler and Suesstrunk; greys have 0
    without_text: Flag = False  # keep samples that have no text, as reconstructions
    min_words: Amount = 1
    max_words: Amount = 500
    max_characters: Amount = 5000
    ascii: Fraction = 0.0  # least share of ASCII characters
    letters: Fraction = 0.5  # least share of letters among the characters that are not spaces
    repetition: Fraction = 0.7  # largest share of words that are repeats
    languages: Texts = ()  # codes such as en; empty: all


class EditSettings(Strict):
    """Limits on edits: on the target beside its one reference."""

    min_distance: Bits = 0  # of the perceptual hashes
    max_distance: Bits = 32
    min_changed: Fraction = 0.001  # share of pixels that change
    max_changed: Fraction = 0.95
    max_aspect_difference: Limit = 0.1  # of the aspects, as a share


class DuplicateSettings(Strict):
    distance: Annotated[Bits, Field(le=16)] = 4  # images whose perceptual hashes differ in at most so many bits


class DecontaminateSettings(Strict):
    """What is evaluated with must not be trained on."""

    prompts: Folder | None = None  # a text file with a prompt on each line, or .jsonl
    images: Folder | None = None  # a folder of images
    distance: Annotated[Bits, Field(le=16)] = 6
    similarity: Fraction = 0.9  # of words, from which a text counts as a prompt


class JudgeSettings(RewardSettings):
    """A reward that judges each sample; its number is a feature of that name, with limits."""

    min: Finite | None = None
    max: Finite | None = None


class CaptionSettings(Strict):
    """A model that writes texts for images, see `blip3o_core/curation/models`."""

    use: Text = "chat"
    options: dict[str, Any] = Field(default_factory=dict)


def _sources(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class CurationSettings(Settings):
    guide: ClassVar[str] = "docs/curation.md"
    advice: ClassVar[dict[str, str]] = {
        "sources": "Name the folders and files to read, like `sources: [images/]`.",
        "out": "Name the folder for the shards and the report.",
    }

    sources: Annotated[tuple[SourceSettings, ...], Field(min_length=1, max_length=1024), BeforeValidator(_sources)]
    out: Folder  # the folder for shards, reports and the work that is resumed
    keep: KeepSettings = KeepSettings()
    edits: EditSettings = EditSettings()
    duplicates: DuplicateSettings | None = DuplicateSettings()
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    judges: Annotated[tuple[JudgeSettings, ...], Field(max_length=32)] = ()
    captions: CaptionSettings | None = None
    reconstructions: Fraction = 0.0  # share of the kept images that are also written as reconstructions
    seed: Annotated[Whole, Field(le=2**32 - 1)] = 0
    backend: Literal["local", "ray"] = "local"
    workers: Annotated[Count, Field(le=1024)] | None = None  # processes; None: one for each core

    def conflicts(self) -> Iterator[str]:
        if self.keep.max_words and self.keep.min_words > self.keep.max_words:
            yield f"keep.min_words is {self.keep.min_words}; it must not exceed keep.max_words ({self.keep.max_words})."
        for low, high in ("min_distance", "max_distance"), ("min_changed", "max_changed"):
            if getattr(self.edits, low) > getattr(self.edits, high):
                yield (
                    f"edits.{low} is {getattr(self.edits, low)}; it must not exceed edits.{high} "
                    f"({getattr(self.edits, high)})."
                )
        for judge in self.judges:
            if judge.min is not None and judge.max is not None and judge.min > judge.max:
                yield f"judge {judge.name!r} has min {judge.min:g}; it must not exceed max ({judge.max:g})."
        names = [judge.name for judge in self.judges]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield f"judges has {name!r} twice. Give each judge a name of its own, and `use` for what it is."


def load_curation(path: str | Path, overrides: Sequence[str] = ()) -> CurationSettings:
    """The YAML file with `key=value` words over it. Raises Blip3oError with all faults at once."""
    return load_settings(CurationSettings, path, overrides)
