"""The settings of one curation, read from YAML and checked before a file is read.

Sources, judges and captions decide what is measured. All others only decide what is kept and written.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..rewards.settings import Name, NamedReward, OnError
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
    Texts,
    Whole,
    load_settings,
)

Written = Literal["long", "short", "instruction"]  # captions of an image; an instruction of a sample with references
MOST_CHARACTERS = 2**20  # of a text that a shard may hold
Bits = Annotated[Whole, Field(le=64)]  # a distance of two perceptual hashes
NearBits = Annotated[Whole, Field(le=16)]  # beyond it, images of other things come near
Limit = Annotated[NotNegative, Field(le=1e9)]
Amount = Annotated[Whole, Field(le=10**9)]


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class SourceSettings(Strict):
    """One place that samples come from. A path alone is `{path: ...}`."""

    path: Folder
    name: Name | None = None  # in the report and in the names of shards; None: the path's last part
    weight: Annotated[Positive, Field(le=1e6)] | None = None  # its share of training; None: by its size
    options: dict[str, Any] = Field(default_factory=dict)  # the reader's own

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class KeepSettings(Strict):
    """Limits on every sample: `min_` or `max_` before the name of a feature. None turns one off."""

    min_side: Amount | None = 256  # pixels
    max_aspect: Limit | None = 4.0
    min_sharpness: Limit | None = 20.0
    max_dark: Fraction | None = 0.95
    max_bright: Fraction | None = 0.95
    min_contrast: Limit | None = 4.0
    min_colourfulness: Limit | None = None
    without_text: Flag = False  # keep images that have no text, as reconstructions
    # Texts that break one of these are left out. A sample is dropped when it has none left.
    min_words: Amount | None = 1
    max_words: Amount | None = 500
    max_characters: Annotated[Count, Field(le=MOST_CHARACTERS)] = 5000
    min_ascii: Fraction | None = None
    min_letters: Fraction | None = 0.5
    max_repetition: Fraction | None = 0.5
    languages: Texts = ()  # codes such as en. Empty: all. A text too short to tell passes


class ReferenceSettings(Strict):
    """Limits on the target beside the reference that is nearest to it."""

    min_reference_side: Amount | None = 256  # pixels
    max_references: Annotated[Count, Field(le=99)] = 8
    min_distance: Bits | None = None
    max_distance: Bits | None = None
    min_changed: Fraction | None = 0.001
    max_changed: Fraction | None = None
    max_aspect_difference: Limit | None = None


class EditSettings(ReferenceSettings):
    max_distance: Bits | None = 32
    max_changed: Fraction | None = 0.95
    max_aspect_difference: Limit | None = 0.1


class DuplicateSettings(Strict):
    distance: NearBits = 4  # images whose perceptual hashes differ in at most so many bits


class DecontaminateSettings(Strict):
    """What is evaluated with must not be trained on."""

    prompts: Folder | None = None  # a text file with a prompt on each line, or .jsonl
    images: Folder | None = None  # a folder of images
    distance: NearBits = 6
    similarity: Annotated[Fraction, Field(gt=0)] = 0.9  # shared words, from which a text counts as a prompt


class JudgeSettings(NamedReward):
    """A reward that judges each sample. Its number is a feature of that name, with limits."""

    on_error: OnError = "skip"  # a fault leaves samples without its number. stop: it ends the run

    min: Finite | None = None
    max: Finite | None = None


class CaptionSettings(Strict):
    """A model that writes texts for samples."""

    use: Literal["chat", "local"] = "chat"  # a server, or a model of this machine
    write: Annotated[tuple[Written, ...], Field(min_length=1, max_length=3), BeforeValidator(_listed)] = ("long",)
    mode: Literal["replace", "join", "missing"] = "replace"  # what becomes of the texts that a sample has
    options: dict[str, Any] = Field(default_factory=dict)  # of the server or the model


class CurationSettings(Settings):
    guide: ClassVar[str] = "docs/curation.md"
    advice: ClassVar[dict[str, str]] = {
        "sources": "Name the folders and files to read, like `sources: [images/]`.",
        "out": "Name the folder for the shards and the report.",
    }

    sources: Annotated[tuple[SourceSettings, ...], Field(min_length=1, max_length=1024), BeforeValidator(_listed)]
    out: Folder  # the folder of the shards, the report and the work that is resumed
    keep: KeepSettings = KeepSettings()
    edits: EditSettings = EditSettings()
    compositions: ReferenceSettings = ReferenceSettings()
    duplicates: DuplicateSettings | None = DuplicateSettings()  # None: they stay
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    judges: Annotated[tuple[JudgeSettings, ...], Field(max_length=32), BeforeValidator(_listed)] = ()
    captions: CaptionSettings | None = None
    reconstructions: Fraction = 0.0  # share of the kept images that are also written as reconstructions
    seed: Annotated[Whole, Field(le=2**32 - 1)] = 0
    backend: Literal["local", "ray"] = "local"
    workers: Annotated[Count, Field(le=1024)] | None = None  # processes; None: one for each core

    def conflicts(self) -> Iterator[str]:
        for group in ("keep", "edits", "compositions"):
            limits = getattr(self, group)
            for name in type(limits).model_fields:
                least, most = getattr(limits, name), getattr(limits, name.replace("min_", "max_", 1), None)
                if name.startswith("min_") and least is not None and most is not None and least > most:
                    other = name.replace("min_", "max_", 1)
                    yield f"{group}.{name} is {least:g}; it must not exceed {group}.{other} ({most:g})."
        for judge in self.judges:
            if judge.min is not None and judge.max is not None and judge.min > judge.max:
                yield f"judge {judge.name!r} has min {judge.min:g}; it must not exceed max ({judge.max:g})."
        if self.captions and self.captions.use == "local" and "instruction" in self.captions.write:
            yield 'captions.write has "instruction", which only `use: chat` writes. Leave it out.'
        unweighted = [source.path for source in self.sources if source.weight is None]
        if 0 < len(unweighted) < len(self.sources):
            yield f"source {unweighted[0]!r} has no weight, and others have one. Give each source a weight, or none."
        for what, names in (
            ("judges", [judge.name for judge in self.judges]),
            ("sources", [source.name for source in self.sources if source.name]),
        ):
            for name in sorted({name for name in names if names.count(name) > 1}):
                yield f"{what} has the name {name!r} twice. Give each one a name of its own."


def load_curation(path: str | Path, overrides: Sequence[str] = ()) -> CurationSettings:
    """The YAML file with `key=value` words over it. Raises Blip3oError with all faults at once."""
    return load_settings(CurationSettings, path, overrides)
