"""Images -> image codes and scaled latents, cached on disk by content.

- Images are encoded one by one: an entry must not depend on which images are encoded together.
- The key is a hash of the file's bytes, of both encoders' weights, of size and fit, and of the reader's version. A
  damaged entry is made again.
"""

import hashlib
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...checkpoint import AUTOENCODER, IMAGE_TOKENIZER, Checkpoint
from ...errors import Blip3oError
from ...files import atomic_write
from ...images import reader
from ...images.preprocess import center_crop, resize_to_tensor
from ...models import autoencoder
from ...weights.digest import digest_of
from .image_source import REMEDY, ImageSource


class ImageEncoder:
    """Images -> codes (T,) int64 and scaled latents (C, h, w) float32, on the CPU. The encoders load when needed."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, side: int, fit: str, device: torch.device):
        autoencoder.check_size(side, side, checkpoint.latent_multiple)
        if checkpoint.image_tokenizer_config is None:
            raise Blip3oError(
                f"{checkpoint.folder} has no image tokenizer, which training needs to encode images. Use a checkpoint "
                "with an image tokenizer."
            )
        self.checkpoint, self.folder, self.side, self.fit, self.device = checkpoint, folder, side, fit, device
        checkpoint.validate()
        encoders = [checkpoint.parts[part] for part in (IMAGE_TOKENIZER, AUTOENCODER)]
        settings = (side, fit, checkpoint.image_tokenizer_config, sorted(checkpoint.autoencoder_config.items()))
        identity = [reader.VERSION, settings, *map(digest_of, encoders)]
        self.identity = hashlib.sha256(repr(identity).encode()).hexdigest()
        self._keys: dict[ImageSource, str] = {}
        self._networks: tuple | None = None  # image tokenizer and autoencoder, loaded at the first image
        cells = side // autoencoder.compression(checkpoint.autoencoder_config)
        self.shape = (checkpoint.autoencoder_config["latent_channels"], cells, cells)

    def encode(self, image: ImageSource) -> tuple[torch.Tensor, torch.Tensor]:
        data = None
        if image not in self._keys:
            data = image.read()
            self._keys[image] = hashlib.sha256(self.identity.encode() + data).hexdigest()
        key = self._keys[image]
        path = self.folder / key[:2] / f"{key[2:]}.safetensors"
        if path.is_file():
            try:
                entry = load_file(path)
                return entry["codes"].long(), entry["latents"]
            except (SafetensorError, KeyError):
                path.unlink(missing_ok=True)
        codes, latents = self._encode(image.name, image.read() if data is None else data)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as scratch:
            save_file({"codes": codes.int(), "latents": latents}, scratch)
        return codes, latents

    @torch.no_grad()
    def _encode(self, name: str, data: bytes) -> tuple[torch.Tensor, torch.Tensor]:
        image = reader.read_image(data, name, REMEDY).on_white()
        if self.fit == "crop":
            image = center_crop(image)
        if self._networks is None:
            tokenizer, vae = self.checkpoint.load_image_tokenizer(), self.checkpoint.load_autoencoder()
            self._networks = tokenizer.to(self.device), vae.to(self.device)
        tokenizer, vae = self._networks
        tokenizer_side = self.checkpoint.image_tokenizer_config.image_size or self.side
        seen = resize_to_tensor(image, tokenizer_side, "BICUBIC").movedim(-1, 1) * 2 - 1
        weight = tokenizer.encode_task_layer[0].weight
        codes = tokenizer.codes(tokenizer.features(seen.to(weight.device, weight.dtype)))[0]
        latents = autoencoder.encode(vae, resize_to_tensor(image, self.side, "BILINEAR").to(self.device))[0]
        return codes.cpu(), (latents.float() * vae.config.scaling_factor).cpu().contiguous()

    @cached_property
    def autoencoder(self):
        """The network that turns latents into images, on the device."""
        if self._networks is None:
            return self.checkpoint.load_autoencoder().to(self.device)
        return self._networks[1]
