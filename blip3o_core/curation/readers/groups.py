"""Members or files that share a name become one sample."""

from collections.abc import Mapping
from typing import Any, Protocol

from ...errors import Blip3oError, shown
from ...files import parse_json
from ...images.reader import MAX_BYTES
from ...shards.naming import IMAGE_SUFFIXES, TEXT_SUFFIXES, role_of
from ..sample import Broken, Sample
from .options import Options
from .texts import JSON_LIMIT, TEXT_LIMIT, decoded, facts_of, texts_in, texts_of


class Member(Protocol):
    """A file, or a part of a tar."""

    @property
    def name(self) -> str: ...

    @property
    def place(self) -> str: ...

    def read(self, limit: int) -> bytes:
        """All bytes. Raises Blip3oError when there are more than `limit`, or not all of them can be read."""
        ...


class Group:
    """The members that share a stem, in the order they were found."""

    def __init__(self, stem: str):
        self.stem = stem
        self.images: dict[str, Member] = {}  # by suffix
        self.references: dict[int, Member] = {}
        self.texts: dict[str, Member] = {}
        self.unused: list[Member] = []

    @staticmethod
    def stem_of(name: str) -> str:
        return role_of(name).stem

    @property
    def place(self) -> str:
        """Of the image, or of whatever else there is."""
        return self.members()[0].place

    def add(self, member: Member) -> str:
        """-> why it is not used, or nothing."""
        role = role_of(member.name)
        if role.kind == "other":
            self.unused.append(member)
            return ""
        if role.kind == "reference":
            used = self.references.setdefault(role.number, member)
        else:
            used = (self.images if role.kind == "image" else self.texts).setdefault(role.suffix, member)
        return "" if used is member else f"It has the name or number of {shown(used.name)}, which is used."

    @property
    def is_bare(self) -> bool:
        """One such as 0001.seg.png, which may only belong to 0001.jpg."""
        return bool(self.images) and not (self.texts or self.references)

    def belongs_to(self, other: "Group") -> bool:
        return self.is_bare and bool(other.images) and self.stem.startswith(other.stem + ".")

    def absorb(self, other: "Group") -> None:
        """Take over `other`, such as 0001.seg beside 0001: it is reported with this sample and is none of its own."""
        self.unused += [*other.images.values(), *other.unused]

    def sample(self, key: str, options: Options) -> Sample | Broken:
        if not self.images:
            return self._without_image()
        image = self.images[min(self.images, key=IMAGE_SUFFIXES.index)]
        references = [one for _, one in sorted(self.references.items())]
        text, reading = self._text(), image
        try:
            entry: Mapping[str, Any] = {}
            meta: dict[str, Any] = {}
            if text is not None:
                reading = text
                entry, meta = self._read_text(text, options)
            texts = texts_in(entry, len(references))
            if not (texts or references):  # an instruction cannot be guessed
                texts = options.default_texts(self.stem)
            meta.update(self._beside(options))
            parts = []
            for reading in (image, *references):
                parts.append(reading.read(MAX_BYTES))
                if not parts[-1]:
                    raise Blip3oError("it is empty.")
        except Blip3oError as error:
            return Broken(reading.place, reason_of(error, reading.place))
        if unused := [shown(one.name) for one in self.members() if one not in (image, text, *references)]:
            meta["unused"] = unused
        return Sample(key, image.place, parts[0], tuple(parts[1:]), texts, meta)

    def members(self) -> list[Member]:
        return [*self.images.values(), *self.references.values(), *self.texts.values(), *self.unused]

    def _text(self) -> Member | None:
        return next((self.texts[suffix] for suffix in TEXT_SUFFIXES if suffix in self.texts), None)

    def _read_text(self, member: Member, options: Options) -> tuple[Mapping, dict[str, Any]]:
        """What a text or a JSON object says -> ({"caption" or "instruction": texts}, facts)."""
        wanted = "instruction" if self.references else "caption"
        if not member.name.lower().endswith(".json"):
            return {wanted: decoded(member.read(TEXT_LIMIT), options.encoding)}, {}
        entry = _json(member, options)
        if options.text:
            named = [name for name in options.text if name in entry]
            found = {wanted: [text for name in named for text in texts_of(entry[name], name)]}
        else:
            named = [name for name in ("caption", "instruction") if name in entry]
            found = {name: entry[name] for name in named}
        if not named:
            # Other keys are facts about the image, which many programs write; none of them may be taken for its text.
            raise Blip3oError(
                f"it has no {' or '.join(options.text) or wanted!r}; its keys: {shown(', '.join(entry) or 'none')}. "
                "Name the key of the text in the source's options, as `text: KEY`."
            )
        return found, facts_of(entry, (wanted,) if wanted in named else tuple(named))

    def _beside(self, options: Options) -> dict[str, Any]:
        """Facts in a JSON object beside a text."""
        member = self.texts.get(".json")
        if member is None or member is self._text():
            return {}
        try:
            return facts_of(_json(member, options))
        except Blip3oError as error:
            return {"facts_not_read": reason_of(error, member.place)}

    def _without_image(self) -> Broken:
        if self.references or self.texts:
            return Broken(self.place, f"No image has the name {shown(self.stem)}.")
        return Broken(self.place, f"It is not an image ({', '.join(IMAGE_SUFFIXES)}) and not a text of one.")


def _json(member: Member, options: Options) -> dict:
    text = decoded(member.read(JSON_LIMIT), options.encoding)
    entry = parse_json(text, "it", "Write it again.")
    if not isinstance(entry, dict):
        raise Blip3oError(f"it must contain a JSON object, but contains a {type(entry).__name__}.")
    return entry


def reason_of(error: Blip3oError, place: str) -> str:
    """An error as a sentence about the place, which is named beside it."""
    reason = str(error)
    if reason.startswith(f"{shown(place)} "):
        reason = f"it {reason[len(shown(place)) + 1 :]}"
    return reason[:1].upper() + reason[1:]
