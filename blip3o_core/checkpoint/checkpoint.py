"""A recognised checkpoint: check it whole, and load its parts.

Parts are built on the meta device, compared with the tensors, then given their weights.
"""

from functools import cached_property
from pathlib import Path

import torch

from ..errors import Blip3oError, bullet_list
from ..models import diffusion_transformer
from ..models.connector import build_connector
from ..models.image_tokenizer import ImageTokenizer
from ..models.language import LanguageModel
from ..weights.names import REFERENCE_CONNECTOR
from ..weights.tensors import load_weights, strip_prefix
from . import identity
from .facts import AUTOENCODER, IMAGE_TOKENIZER, LANGUAGE, TRANSFORMER, CheckpointFacts
from .networks import build
from .validate import find_problems


class Checkpoint(CheckpointFacts):
    """What a checkpoint is, and its parts on demand. `open_checkpoint` makes one."""

    def validate(self) -> None:
        """Raise one Blip3oError that lists all tensors that do not fit the config files. Loads no weights."""
        if self._problems:
            raise Blip3oError(
                f"The tensors in {self.folder} do not fit its config files (diffusion folder {self.diffusion_folder})"
                f":\n{bullet_list(self._problems)}\n"
                "Use the config files and the diffusion folder that belong to this checkpoint, or copy it again."
            )

    @cached_property
    def _problems(self) -> list[str]:
        return find_problems(self)

    @property
    def files(self) -> list[Path]:
        """All files that decide what is loaded, and those that would if they were there."""
        own = [
            "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
            "merges.txt", "model.safetensors", "model.safetensors.index.json",
        ]  # fmt: skip
        diffusion = ("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json")
        weights = {entry.file for part in self.parts.values() for entry in part.values()}
        named = [*(self.folder / name for name in own), *(self.diffusion_folder / name for name in diffusion)]
        return [*named, *sorted(weights - set(named))]

    @cached_property
    def identity(self) -> str:
        """Equal only for checkpoints that make the same images, see `identity`. Reads every weight once."""
        return identity.identity(self)

    @cached_property
    def language_identity(self) -> str:
        """Equal only for checkpoints whose language models write the same hidden states, if in the same dtype."""
        return identity.language_identity(self)

    def load_language(self, dtype: torch.dtype | None = None) -> LanguageModel:
        """Language model with its connector, on the CPU, frozen. `dtype` None: as stored."""
        network = self._load(LANGUAGE, dtype)
        network.model.rotary_emb = type(network.model.rotary_emb)(config=network.config)
        return network

    def load_reference_connector(self, dtype: torch.dtype | None = None) -> torch.nn.Module | None:
        """The connector of `reference_mode.cross` alone, for a host that keeps it beside the transformer."""
        self.validate()
        tensors = strip_prefix(self.parts[LANGUAGE], REFERENCE_CONNECTOR)
        if not tensors:
            return None
        with torch.device("meta"):
            connector = build_connector(tensors["0.weight"].shape[1], tensors["0.weight"].shape[0])
        load_weights(connector, tensors, dtype)
        return connector

    def load_transformer(self, dtype: torch.dtype | None = None):
        """diffusers' SanaTransformer2DModel with this checkpoint's weights."""
        network = self._load(TRANSFORMER, dtype)
        diffusion_transformer.restore_buffers(network)
        return network

    def load_autoencoder(self, dtype: torch.dtype | None = None):
        """diffusers' AutoencoderDC with this checkpoint's weights."""
        return self._load(AUTOENCODER, dtype)

    def load_image_tokenizer(self, dtype: torch.dtype | None = None) -> ImageTokenizer:
        """TA-Tok up to its codes."""
        network = self._load(IMAGE_TOKENIZER, dtype)
        network.restore_buffers()
        return network

    def _load(self, part: str, dtype: torch.dtype | None) -> torch.nn.Module:
        self.validate()
        if part not in self.parts:
            raise Blip3oError(f"{self.folder} contains no {part}. Choose a checkpoint that has one.")
        network = build(self, part)
        load_weights(network, self.parts[part], dtype)
        return network
