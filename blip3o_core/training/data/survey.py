"""All data is looked at before the first step: no run stops hours later at an image that was damaged from the start.

An image's first and last bytes are read, which show its format, its size in pixels and whether it is cut short. What is
damaged in between stops the run at the step that decodes it.
"""

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from ...errors import Blip3oError, bullet_list
from ...images import reader
from ...prompts.encoder import PromptEncoder
from .image_source import REMEDY, ImageSource
from .item_table import ItemTable
from .items import Items, Part
from .streamed import StreamedItems

_ENDS = 4096  # bytes
_READERS = 8  # threads, which wait for the disk or the network most of the time
_CHUNK = 4096  # images that are on their way at once
_MOST_FAULTS = 30
_GROWTH = 3  # a normaliser makes at most so many bytes of one


@dataclass(frozen=True)
class Survey:
    """What one process found in its share of images and shards; the shares of all processes add up."""

    content: int  # a sum of digests: equal for the same images in the same order
    faulty: int
    faults: tuple[str, ...]  # the first of them
    shards: tuple[str, ...] = ()  # what is wrong with shards of shard folders


def survey(items: Items, process: int = 0, processes: int = 1) -> Survey:
    """Look at this process's share of the images, and of the shards of shard folders, whose images are not read."""
    share = itertools.islice(items.images(), process, None, processes)
    content, faulty, faults = 0, 0, []
    with ThreadPoolExecutor(_READERS) as pool:
        while chunk := list(itertools.islice(share, _CHUNK)):
            for found in pool.map(_look, chunk):
                if isinstance(found, str):
                    faulty += 1
                    faults += [found] * (len(faults) < _MOST_FAULTS)
                else:
                    content += found
        broken = [
            fault
            for part in items.streamed
            for fault in pool.map(part.shards.fault, range(process, len(part.facts), processes))
            if fault
        ]
    return Survey(content % 2**128, faulty, tuple(faults), tuple(broken))


def combine(items: Items, found: list[Survey]) -> str:
    """The identity of all data: equal for the same images and texts in the same order, whatever they are called.

    Raises Blip3oError that lists the images that cannot be read, and the shards that are not what their folder says.
    """
    if shards := [fault for one in found for fault in one.shards]:
        head = f"{len(shards):,} shards have changed since their manifest was written:\n"
        raise Blip3oError(shards[0] if len(shards) == 1 else head + bullet_list(shards, _MOST_FAULTS))
    faults, faulty = [fault for one in found for fault in one.faults], sum(one.faulty for one in found)
    if faulty == 1:
        raise Blip3oError(faults[0])
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults[:_MOST_FAULTS])
        more = f"\n  and {faulty - _MOST_FAULTS:,} more" if faulty > _MOST_FAULTS else ""
        raise Blip3oError(f"{faulty:,} images cannot be read:\n{lines}{more}")
    digest = hashlib.sha256(str(sum(one.content for one in found) % 2**128).encode())
    for part in items.parts:
        digest.update((part.captions.identity() if isinstance(part, ItemTable) else part.identity()).encode())
    return digest.hexdigest()


def _look(image: ImageSource) -> int | str:
    """128 bits of an image, or what is wrong with it."""
    try:
        size, head, tail = image.ends(_ENDS)
        if not _is_whole(size, head, tail) or not _has_size(image, head):
            reader.read_image(image.read(), image.name, REMEDY)  # raises, or finds it whole
    except Blip3oError as error:
        return str(error)
    digest = hashlib.blake2b(f"{image.number} {size} ".encode() + head + tail, digest_size=16)
    return int.from_bytes(digest.digest(), "big")


def _is_whole(size: int, head: bytes, tail: bytes) -> bool:
    """Whether a file has the mark that ends its format. False: it must be decoded to know."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" in tail
    if head.startswith(b"\xff\xd8\xff"):
        return b"\xff\xd9" in tail
    if head.startswith(b"GIF8"):
        return tail.rstrip(b"\0").endswith(b";")
    return _is_webp(head) and int.from_bytes(head[4:8], "little") + 8 <= size


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _has_size(image: ImageSource, head: bytes) -> bool:
    """Whether the first bytes say a size in pixels. Raises Blip3oError for one that is too large."""
    from PIL import Image

    try:
        if _is_webp(head):
            width, height = _webp_size(head)
        else:
            with Image.open(io.BytesIO(head), formats=("PNG", "JPEG", "MPO", "GIF")) as opened:
                width, height = opened.size
        reader.check_size(width, height, image.name)
        return True
    except Blip3oError:
        raise
    except Exception:  # a header longer than `head`, or a damaged one
        return False


def _webp_size(head: bytes) -> tuple[int, int]:
    """(width, height); Pillow reads all of such a file to tell them."""
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    raise ValueError(kind)


def check_captions(items: Items, prompts: PromptEncoder, num_tokens: int, parse_special: bool) -> None:
    """Raise Blip3oError for a caption or instruction that is longer than the checkpoint's prompts may be."""
    frame = len(prompts.encode("")) + 64  # the template of edits is a little longer

    def fits(longest: int, references: int) -> bool:
        """No tokenizer makes more tokens than there are bytes."""
        return _GROWTH * longest + frame + references * num_tokens <= prompts.limit

    for part in items.parts:
        for number, text in _long_texts(part, fits):
            references = part.num_references(number)
            if fits(len(text), references):
                continue
            try:
                _encode(prompts, text.decode("utf-8"), references, num_tokens, parse_special)
            except Blip3oError as error:
                raise Blip3oError(f"{part[number].name}: {error}") from error


def _long_texts(part: Part, fits: Callable[[int, int], bool]) -> Iterator[tuple[int, bytes]]:
    """(item, UTF-8 bytes) of all texts among which one may be too long. The manifest of a shard folder knows."""
    if not isinstance(part, StreamedItems):
        return iter(()) if fits(part.captions.longest, part.most_references) else part.captions.encoded()
    shards = (k for k, facts in enumerate(part.facts) if not fits(facts.longest_text, facts.most_references))
    return itertools.chain.from_iterable(map(part.texts_in, shards))


def _encode(prompts: PromptEncoder, text: str, references: int, num_tokens: int, parse_special: bool) -> None:
    if references:
        prompts.encode_edit(text, torch.zeros(references, num_tokens, dtype=torch.int64), parse_special)
    else:
        prompts.encode(text, parse_special)
