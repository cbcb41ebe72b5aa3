"""Training items in columns: a million of them need some hundred megabytes less than a million objects do."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import Blip3oError
from .captions import Captions, Groups, Texts
from .encoded import EncodedItem, assemble
from .image_source import HeldImage, ImageSource
from .latent_cache import Encoded, Pixels, Shape


@dataclass(frozen=True)
class Item:
    captions: Captions  # empty for a reconstruction
    image: ImageSource | HeldImage
    references: tuple[ImageSource | HeldImage, ...] = ()

    @property
    def name(self) -> str:
        return self.image.name

    @property
    def num_references(self) -> int:
        return len(self.references)

    def look(self, images) -> "EncodedItem | Pending":
        """What `images`, an ImageEncoder, has of the item without its networks. Any thread may call it."""
        found = Pending([images.look(one) for one in (self.image, *self.references)])
        self._check_shapes(found.shapes)
        return found if any(isinstance(one, Pixels) for one in found.parts) else found.encode(images)

    def encode(self, images) -> EncodedItem:
        """Codes and latents from `images`."""
        found = self.look(images)
        return found if isinstance(found, EncodedItem) else found.encode(images)

    def _check_shapes(self, shapes: list[Shape]) -> None:
        """Raise Blip3oError for a reference that stands beside an image of another shape."""
        for reference, shape in zip(self.references, shapes[1:], strict=True):
            if shape != shapes[0]:
                (_, *own), (_, *other) = shapes[0], shape
                raise Blip3oError(
                    f"{self.name} has latents of {own[0]} x {own[1]} cells and its reference {reference.name} of "
                    f"{other[0]} x {other[1]}. With fit 'keep' references must have the image's aspect. Crop them, or "
                    "use fit 'crop' or 'stretch'."
                )


@dataclass(frozen=True)
class Pending:
    """An item with images that were read and are not encoded yet."""

    parts: "list[Encoded | Pixels]"  # of the image and its references

    @property
    def num_references(self) -> int:
        return len(self.parts) - 1

    @property
    def shape(self) -> Shape:
        """Of the image's latents."""
        return self.shapes[0]

    @property
    def shapes(self) -> list[Shape]:
        """Of the latents of the image and of its references."""
        return [one.shape if isinstance(one, Pixels) else tuple(one[1].shape) for one in self.parts]

    def encode(self, images) -> EncodedItem:
        return assemble(images.finish(self.parts))


def encode_all(items: "Sequence[EncodedItem | Pending]", images) -> list[EncodedItem]:
    """The items of one forward pass, whose latents have one shape; `images` is an ImageEncoder."""
    done = iter(images.finish([part for item in items if isinstance(item, Pending) for part in item.parts]))
    return [assemble([next(done) for _ in item.parts]) if isinstance(item, Pending) else item for item in items]


class ItemTable(Sequence[Item]):
    """The items of folders and shards. An `Item` is made when it is asked for."""

    units: list[int] | None = None  # items may be read in any order

    def __init__(self) -> None:
        self.captions = Groups()
        self.edits = 0
        self.most_references = 0
        self.first_image = 0  # among all images of a run
        self.first_with_several: int | None = None  # the first item with more than one reference
        self._places: list[Path] = []  # folders, and shards
        self._numbers: dict[Path, int] = {}
        # Of every image: its place, its name there, and where a shard has it; the offset is -1 for a file of its own.
        self._place, self._name, self._offset, self._size = array("I"), Texts(), array("q"), array("q")
        self._last_image = array("Q")  # of every item, as a count

    def append(self, captions: Captions, images: list[tuple[Path, str, int, int]]) -> None:
        """`images`: target and references, each a folder or shard, a name in it, an offset (-1: a file) and a size."""
        for place, name, offset, size in images:
            if place not in self._numbers:
                self._numbers[place] = len(self._places)
                self._places.append(place)
            self._place.append(self._numbers[place])
            self._name.append(name)
            self._offset.append(offset)
            self._size.append(size)
        self._last_image.append(len(self._place))
        self.captions.append(captions)
        self.edits += len(images) > 1
        self.most_references = max(self.most_references, len(images) - 1)
        if len(images) > 2 and self.first_with_several is None:
            self.first_with_several = len(self) - 1

    def __len__(self) -> int:
        return len(self._last_image)

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        first = self._last_image[number - 1] if number else 0
        found = tuple(self._image(k) for k in range(first, self._last_image[number]))
        return Item(self.captions[number], found[0], found[1:])

    @property
    def filled(self) -> int:
        """Items with texts."""
        return self.captions.filled

    @property
    def num_images(self) -> int:
        return len(self._place)

    def num_references(self, number: int) -> int:
        return self._last_image[number] - (self._last_image[number - 1] if number else 0) - 1

    def images(self) -> Iterator[ImageSource]:
        """All images, references too."""
        return map(self._image, range(len(self._place)))

    def _image(self, number: int) -> ImageSource:
        place, name, offset = self._places[self._place[number]], self._name[number], self._offset[number]
        if offset < 0:
            return ImageSource(place / name, str(place / name), number=self.first_image + number)
        return ImageSource(place, f"{place}:{name}", offset, self._size[number], self.first_image + number)
