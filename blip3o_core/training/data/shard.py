"""Training items from webdataset-style .tar shards, which are read in place.

- Members whose names are equal up to their last dot are one item: an image, and a text or a JSON object. The references
  of an edit are called .reference.png or .reference1.png, ...
- 0001.seg.png beside 0001.jpg is an item only if it has a text, such as 0001.seg.txt.
- Links are followed inside the shard. Whatever is not used is counted, so that nothing is dropped without a word.
"""

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ...errors import Blip3oError, first_line, shown
from ...files import LINE_LIMIT, decode_text, open_regular, parse_json
from ...shards.naming import IMAGE_SUFFIXES, TEXT_SUFFIXES, is_hidden, role_of
from .captions import Captions, texts_of
from .item_table import ItemTable
from .notes import Notes

_REMEDY = "Make the shard again."
_MOST_HOPS = 16  # of links that lead to links


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


@dataclass
class _Group:
    """The members that share a name."""

    images: dict[str, _Member] = field(default_factory=dict)  # by suffix
    references: dict[int, _Member] = field(default_factory=dict)
    texts: dict[str, _Member] = field(default_factory=dict)


def read_shard(file: Path, table: ItemTable, notes: Notes) -> None:
    """Append the shard's items to `table`; `notes` get what is not used of it."""
    with open_regular(file, _REMEDY) as stream:
        try:
            groups = _groups(_members(stream, file, notes), notes)
            for stem, group in groups.items():
                if _is_item(stem, group, groups, notes):
                    _append(group, stream, file, table, notes)
        except Blip3oError:
            raise
        except Exception as error:  # tarfile meets whatever a damaged header makes of its numbers
            raise Blip3oError(
                f"Cannot read {file} as an uncompressed .tar shard: {first_line(error)}. {_REMEDY}"
            ) from error


def _members(stream: BinaryIO, file: Path, notes: Notes) -> Iterator[_Member]:
    """The regular files of a shard in their order. A link has its own name and the bytes of what it leads to."""
    size = stream.seek(0, 2)
    stream.seek(0)
    found: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(fileobj=stream, mode="r:") as shard:
        for member in shard:
            if member.sparse is not None:
                raise tarfile.ReadError(f"{shown(member.name)} is a sparse file, which cannot be read in place")
            if member.size < 0 or (member.isreg() and member.offset_data + member.size > size):
                raise tarfile.ReadError(f"{shown(member.name)} is cut short")
            name = posixpath.normpath(member.name)
            if member.isdir() or is_hidden(name):
                continue
            if found.pop(name, None) is not None:
                notes.unused["replaced by a later file of the same name"] += 1
            found[name] = member
        end = shard.offset
    _check_end(stream, end, size, file, notes)
    for name in found:
        target = _follow(name, found)
        if target is None:
            notes.unused["links to what is not in the shard"] += 1
        elif target.isreg():
            yield _Member(name, target.offset_data, target.size)
        else:
            notes.unused["devices and pipes"] += 1


def _check_end(stream: BinaryIO, end: int, size: int, file: Path, notes: Notes) -> None:
    """Only zeros follow the last member. tarfile stops at the first header that it cannot read and says nothing."""
    notes.unended += end >= size
    stream.seek(end)
    if stream.read(2**20).strip(b"\0"):
        raise Blip3oError(
            f"{file} has more bytes after byte {end:,} that cannot be read as a member: it is damaged, or several "
            "shards were joined to one file. Give the shards one by one, or make the shard again."
        )


def _follow(name: str, found: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The member that is not a link, behind the links that `name` begins; None when they lead out of the shard."""
    for _ in range(_MOST_HOPS):
        member = found.get(name)
        if member is None or not (member.issym() or member.islnk()):
            return member
        base = posixpath.dirname(name) if member.issym() else ""
        name = posixpath.normpath(posixpath.join(base, member.linkname))
    return None


def _groups(members: Iterator[_Member], notes: Notes) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for member in members:
        role = role_of(member.name)
        if role.kind == "other":
            notes.unused[shown(role.suffix, 20) or "names without an ending"] += 1
            continue
        group = groups.setdefault(role.stem, _Group())
        if role.kind == "image":
            group.images[role.suffix] = member
        elif role.kind == "text":
            group.texts[role.suffix] = member
        elif group.references.setdefault(role.number, member) is not member:
            notes.unused["references of the same number"] += 1
    return groups


def _is_item(stem: str, group: _Group, groups: dict[str, _Group], notes: Notes) -> bool:
    """Whether a group has an image of its own. One such as 0001.seg.png only belongs to 0001.jpg."""
    if not group.images:
        notes.unused["texts and references without an image"] += len(group.texts) + len(group.references)
        return False
    shorter = stem
    while not (group.texts or group.references) and "." in posixpath.basename(shorter):
        shorter = shorter.rpartition(".")[0]
        if shorter in groups and groups[shorter].images:
            notes.unused[f"{shown(stem.removeprefix(shorter), 20)} beside another image"] += len(group.images)
            return False
    return True


def _append(group: _Group, stream: BinaryIO, file: Path, table: ItemTable, notes: Notes) -> None:
    suffix = min(group.images, key=IMAGE_SUFFIXES.index)
    if len(group.images) > 1:
        notes.unused[f"other formats beside {suffix}"] += len(group.images) - 1
    images = [group.images[suffix], *(one for _, one in sorted(group.references.items()))]
    kinds = [kind for kind in TEXT_SUFFIXES if kind in group.texts]
    for kind in kinds[1:]:
        notes.unused[f"{kind} beside another text"] += 1
    where = f"{file}:{images[0].name}"
    captions: Captions
    if kinds:
        entry = _text(stream, group.texts[kinds[0]], file, "instruction" if group.references else "caption")
        captions = texts_of(entry, len(group.references), where)
        notes.empty += not captions and any(value is not None for value in entry.values())
    else:
        captions = texts_of({}, len(group.references), where)
    table.append(captions, [(file, *one) for one in images])


def _text(stream: BinaryIO, member: _Member, file: Path, wanted: str) -> dict:
    """`caption` and `instruction` as a text or a JSON object has them; `wanted` is the one that a text means."""
    name = f"{file}:{member.name}"
    if member.size > LINE_LIMIT:
        raise Blip3oError(f"{name} has {member.size:,} bytes; a text may have {LINE_LIMIT:,}. {_REMEDY}")
    stream.seek(member.offset)
    text = decode_text(stream.read(member.size), name)
    if not name.lower().endswith(".json"):
        return {wanted: text}
    entry = parse_json(text, name, _REMEDY)
    if not isinstance(entry, dict):
        raise Blip3oError(f"{name} must contain a JSON object, but contains a {type(entry).__name__}. {_REMEDY}")
    found = {key: entry[key] for key in ("caption", "instruction") if key in entry}
    if not found:
        # Other keys are facts about the image, which many programs write; none of them may be taken for its text.
        keys = shown(", ".join(map(str, entry)) or "none", 100)
        raise Blip3oError(
            f'{name} has no "{wanted}"; its keys are: {keys}. Write the text as "{wanted}", or null there for a '
            "reconstruction."
        )
    return found
