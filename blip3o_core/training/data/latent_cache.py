"""Images -> image codes and scaled latents, cached on disk by content.

- Images are encoded one by one: an entry must not depend on which images are encoded together.
- Without a cache small images are encoded together, those of one forward pass: that is a function of the step alone.
- The key is a hash of the file's bytes, of both encoders' weights, of size and fit, and of the reader's version.
- An entry says what its bytes must be. One that is damaged, or not what this encoder writes, is made again.
"""

import hashlib
import itertools
import json
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ...checkpoint import AUTOENCODER, IMAGE_TOKENIZER, Checkpoint
from ...checks import require_finite
from ...errors import Blip3oError
from ...files import atomic_write, naming_failures
from ...images import reader
from ...images.preprocess import center_crop, limit_aspect, resize_to_tensor, vae_input
from ...models import autoencoder
from ...weights.digest import digest_of
from .image_source import REMEDY, HeldImage, ImageSource

_KEY = 32  # bytes
_AT_ONCE = 2**18  # pixels that are encoded together: 16 images of 128 px, one of 512
_IDLE_STEPS = 200  # without an image to encode, until the networks leave the device
Encoded = tuple[torch.Tensor, torch.Tensor]  # codes (T,) int64, scaled latents (C, h, w) float32
Shape = tuple[int, int, int]  # of latents: channels, rows, columns


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image that was read and is not in the cache: what the two networks see of it."""

    name: str
    key: str
    for_codes: torch.Tensor  # (1, 3, H, W) in [-1, 1]
    for_latents: torch.Tensor  # (1, H, W, 3) in [0, 1]
    shape: Shape  # of the latents that it will have


class ImageEncoder:
    """Images -> codes and latents on the CPU.

    `look` reads, decodes and resizes, in any thread; `finish` runs the networks, which load when they are needed.
    `folder` has what was encoded before; None: nothing is kept.
    `shape` is that of a square image's latents; with the fit `keep` others have other rows and columns.
    """

    def __init__(self, checkpoint: Checkpoint, folder: Path | None, side: int, fit: str, device: torch.device):
        autoencoder.check_size(side, side, checkpoint.latent_multiple)
        if checkpoint.image_tokenizer_config is None:
            raise Blip3oError(
                f"{checkpoint.folder} has no image tokenizer, which training needs to encode images. Use a checkpoint "
                "with an image tokenizer."
            )
        self.checkpoint, self.folder, self.side, self.fit, self.device = checkpoint, folder, side, fit, device
        checkpoint.validate()
        encoders = [checkpoint.parts[part] for part in (IMAGE_TOKENIZER, AUTOENCODER)]
        # The sides of an image that keeps its aspect are multiples of what the transformer takes.
        framing = (fit, checkpoint.latent_multiple) if fit == "keep" else fit
        settings = (side, framing, checkpoint.image_tokenizer_config, sorted(checkpoint.autoencoder_config.items()))
        identity = [reader.VERSION, settings, *map(digest_of, encoders)]
        self.identity = hashlib.sha256(repr(identity).encode()).hexdigest()
        self.shape = self._shape(side, side)
        self._keys = _Keys()
        self._tokenizer = self._autoencoder = None
        self._idle = 0  # steps in a row that encoded nothing

    def encode(self, image: ImageSource | HeldImage) -> Encoded:
        return self.finish([self.look(image)])[0]

    def look(self, image: ImageSource | HeldImage) -> Encoded | Pixels:
        """What the cache has of an image, or its pixels."""
        if self.folder is None:
            return self._pixels(image.name, "", image.read())
        data, key = None, self._keys.get(image.number)
        if key is None:
            data = image.read()
            key = hashlib.sha256(self.identity.encode() + data).digest()
            self._keys.set(image.number, key)
        found = self._cached(key.hex())
        return self._pixels(image.name, key.hex(), image.read() if data is None else data) if found is None else found

    def finish(self, found: "list[Encoded | Pixels]") -> list[Encoded]:
        """Codes and latents of images whose latents have one shape. What was encoded goes into the cache."""
        if self.folder is not None:
            return [self._finish_one(one) if isinstance(one, Pixels) else one for one in found]
        pixels = [one for one in found if isinstance(one, Pixels)]
        size = max(1, _AT_ONCE // pixels[0].for_latents[..., 0].numel()) if pixels else 1
        self._idle = 0
        parts = (pixels[first : first + size] for first in range(0, len(pixels), size))
        done = itertools.chain.from_iterable(map(self._encode, parts))
        return [next(done) if isinstance(one, Pixels) else one for one in found]

    def _finish_one(self, found: Pixels) -> Encoded:
        if (encoded := self._cached(found.key)) is not None:  # the same image was in the step before
            return encoded
        self._idle = 0
        [(codes, latents)] = self._encode([found])
        path = self._path(found.key)
        with naming_failures(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as scratch:
                scratch.write_bytes(_entry(codes.int(), latents))
        return codes, latents

    def end_step(self) -> None:
        """Called after every step: when all images are encoded, the networks leave the device."""
        self._idle += 1
        if self._idle >= _IDLE_STEPS:
            self._tokenizer = self._autoencoder = None

    @property
    def autoencoder(self):
        """The network between images and latents, on the device."""
        if self._autoencoder is None:
            self._autoencoder = self.checkpoint.load_autoencoder().to(self.device)
        return self._autoencoder

    @property
    def tokenizer(self):
        """The network from images to codes, on the device."""
        if self._tokenizer is None:
            self._tokenizer = self.checkpoint.load_image_tokenizer().to(self.device)
        return self._tokenizer

    def _shape(self, width: int, height: int) -> Shape:
        """Of the latents of an image of these pixels."""
        config = self.checkpoint.autoencoder_config
        pixels = autoencoder.compression(config)
        return config["latent_channels"], height // pixels, width // pixels

    def _path(self, key: str) -> Path:
        return Path(self.folder or "") / key[:2] / f"{key[2:]}.safetensors"

    def _cached(self, key: str) -> Encoded | None:
        """The entry of a key; None when there is none, or when it is not what `_entry` writes for this encoder."""
        try:
            data = self._path(key).read_bytes()
            start = 8 + int.from_bytes(data[:8], "little")
            entry, digest = load(data), json.loads(data[8:start])["__metadata__"]["sha256"]
            codes, latents = entry["codes"], entry["latents"]
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        same = hashlib.sha256(data[start:]).hexdigest() == digest and codes.ndim == 1
        same = same and (codes.dtype, latents.dtype) == (torch.int32, torch.float32)
        fits = latents.ndim == 3 if self.fit == "keep" else latents.shape == self.shape
        if not same or not fits:
            return None
        return codes.long(), latents

    def _pixels(self, name: str, key: str, data: bytes) -> Pixels:
        image = reader.read_image(data, name, REMEDY).on_white()
        image = center_crop(image) if self.fit == "crop" else limit_aspect(image) if self.fit == "keep" else image
        side = self.checkpoint.image_tokenizer_config.image_size or self.side
        seen = resize_to_tensor(image, side, "BICUBIC").movedim(-1, 1) * 2 - 1
        if self.fit == "keep":  # as the references of an edit whose fit is `stretch`
            whole = vae_input(image, "stretch", self.side, self.checkpoint.latent_multiple)
        else:
            whole = resize_to_tensor(image, self.side, "BILINEAR")
        return Pixels(name, key, seen, whole, self._shape(whole.shape[2], whole.shape[1]))

    @torch.no_grad()
    def _encode(self, pixels: list[Pixels]) -> list[Encoded]:
        weight, vae = self.tokenizer.encode_task_layer[0].weight, self.autoencoder
        seen = torch.cat([one.for_codes for one in pixels])
        codes = self.tokenizer.codes(self.tokenizer.features(seen.to(weight.device, weight.dtype))).cpu()
        latents = autoencoder.encode(vae, torch.cat([one.for_latents for one in pixels]).to(self.device))
        latents = (latents.float() * vae.config.scaling_factor).cpu().contiguous()
        for one, row in zip(pixels, latents, strict=True):
            require_finite(row, f"{one.name}: what the autoencoder makes of it", "Remove the image from the data.")
        return list(zip(codes, latents, strict=True))


def _entry(codes: torch.Tensor, latents: torch.Tensor) -> bytes:
    """A safetensors file that holds the digest of its own tensors."""
    tensors = {"codes": codes, "latents": latents}
    plain = save(tensors)
    digest = hashlib.sha256(plain[8 + int.from_bytes(plain[:8], "little") :]).hexdigest()
    return save(tensors, {"sha256": digest})


class _Keys:
    """The keys of images by their number: a file is read once to be found in the cache, not at every use."""

    def __init__(self) -> None:
        self._data, self._lock = bytearray(), threading.Lock()

    def get(self, number: int | None) -> bytes | None:
        if number is None:
            return None
        key = bytes(self._data[_KEY * number : _KEY * (number + 1)])
        return key if any(key) else None

    def set(self, number: int | None, key: bytes) -> None:
        if number is None:
            return
        with self._lock:
            self._data += bytes(max(0, _KEY * (number + 1) - len(self._data)))
            self._data[_KEY * number : _KEY * (number + 1)] = key
