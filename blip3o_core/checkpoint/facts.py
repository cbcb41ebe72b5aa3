"""What a checkpoint is, read from its config files and the headers of its weights, before any part is built.

One folder holds every weight (language model, connector, SANA, DC-AE, TA-Tok). The diffusion folder inside it, beside
it or given only says how SANA and DC-AE are built (docs/reference.md 7); its own weights are used for a part that the
checkpoint does not hold at all.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..diffusion.reference_mode import ReferenceMode
from ..errors import Blip3oError, shown
from ..files import read_optional_json
from ..models import autoencoder, image_tokenizer, meanflow
from ..models.image_tokenizer import ImageTokenizerConfig
from ..prompts.encoder import PromptEncoder
from ..prompts.vocabulary import CodesId, Vocabulary
from ..weights.names import EDIT_CONNECTORS, LANGUAGE_PREFIXES, SANA, VAE
from ..weights.safetensors_file import TensorIndex, read_tensor
from ..weights.tensors import read_index, strip_prefix
from .plausible import number, require_plausible

# The parts, as users read them.
LANGUAGE, TRANSFORMER, AUTOENCODER = "language model", "diffusion transformer", "autoencoder"
IMAGE_TOKENIZER = "image tokenizer (TA-Tok)"
# Taken only where a checkpoint does not say.
PUBLISHED_GRID = (27, 27)
PUBLISHED_CELLS = 32
_MOST_CODEBOOK = 2**30  # bytes
_DAMAGED = "The file is damaged or belongs to another model. Download it again."


@dataclass(frozen=True)
class CheckpointFacts:
    """One recognised checkpoint folder."""

    folder: Path
    diffusion_folder: Path
    config: dict  # config.json
    vocabulary: Vocabulary
    tensors: TensorIndex = field(repr=False)
    transformer_config: dict = field(repr=False)
    autoencoder_config: dict = field(repr=False)
    image_tokenizer_config: ImageTokenizerConfig | None  # None: the checkpoint holds no image tokenizer

    @property
    def family(self) -> str:
        """'edit' when a reference connector or an edit switch is there, else 'text-to-image'."""
        connectors = any(name.startswith(tuple(EDIT_CONNECTORS.values())) for name in self.tensors)
        return "edit" if connectors or any(self.switches.values()) else "text-to-image"

    @property
    def switches(self) -> dict[str, bool]:
        """The edit switches of config.json that decide how references enter (docs/reference.md 6.7)."""
        names = (*EDIT_CONNECTORS, "only_use_und_image_vae_as_noise")
        return {name: bool(self.config.get(name)) for name in names}

    @property
    def reference_mode(self) -> ReferenceMode:
        return ReferenceMode.from_switches(self.switches)

    @cached_property
    def is_meanflow(self) -> bool:
        """Whether the transformer is a few-step one, see `meanflow`."""
        return meanflow.has_meanflow_tensors(self._diffusion_part(SANA, "transformer"))

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the image tokens: the image tokenizer's, the published one where the checkpoint holds none."""
        return self.image_tokenizer_config.grid if self.image_tokenizer_config else PUBLISHED_GRID

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding."""
        tied = self.config.get("tie_word_embeddings")
        return "lm_head.weight" not in self.tensors if tied is None else tied

    @property
    def shift(self) -> float:
        """The flow shift that the authors' scheduler uses: `shift`, never `flow_shift` (docs/reference.md 5)."""
        path = self.diffusion_folder / "scheduler" / "scheduler_config.json"
        shift = read_optional_json(path).get("shift")
        require_plausible({"shift": 1.0 if shift is None else shift}, (), {"shift": number(1e-3, 1e3)}, path)
        return 1.0 if shift is None else shift

    @property
    def latent_multiple(self) -> int:
        """Pixels that width and height must be a multiple of."""
        return autoencoder.compression(self.autoencoder_config) * self.transformer_config.get("patch_size", 1)

    @property
    def trained_side(self) -> int:
        """Pixels on a side of the images that the transformer was trained on."""
        cells = self.transformer_config.get("sample_size") or PUBLISHED_CELLS
        return cells * autoencoder.compression(self.autoencoder_config)

    @property
    def prompt_limit(self) -> int:
        """Longest prompt in tokens."""
        path = self.folder / "tokenizer_config.json"
        saved = read_optional_json(path).get("model_max_length")
        longest = self.config["max_position_embeddings"]
        limit = saved or self.config.get("tokenizer_model_max_length") or longest
        # Libraries write a very large number, or infinity, for "no limit".
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
            raise Blip3oError(f"{path}: model_max_length is {shown(limit)}; it must be 1 or more. Copy the file again.")
        return int(min(limit, longest - self.grid[0] * self.grid[1]))

    @cached_property
    def prompt_encoder(self) -> PromptEncoder:
        return PromptEncoder(self.folder, self.vocabulary, self.prompt_limit)

    @cached_property
    def parts(self) -> dict[str, TensorIndex]:
        """The tensors of each part, named as in its network. Nothing is compared with the config files yet.

        A tied output matrix that was saved as well is left out: it is the embedding once more, and is not loaded.
        """
        language = {name: entry for name, entry in self.tensors.items() if name.startswith(LANGUAGE_PREFIXES)}
        if self.tied:
            language = {name: entry for name, entry in language.items() if not name.startswith("lm_head.")}
        parts = {
            LANGUAGE: language,
            TRANSFORMER: self._diffusion_part(SANA, "transformer"),
            AUTOENCODER: self._diffusion_part(VAE, "vae"),
        }
        if self.image_tokenizer_config:
            parts[IMAGE_TOKENIZER] = strip_prefix(self.tensors, image_tokenizer.PREFIX)
        return parts

    @property
    def is_decoder_only(self) -> bool:
        """Whether the autoencoder was saved without its encoder: latents become images, images cannot be encoded."""
        return not any(name.startswith("encoder.") for name in self.parts[AUTOENCODER])

    def _diffusion_part(self, prefix: str, subfolder: str) -> TensorIndex:
        own = strip_prefix(self.tensors, prefix)
        return own or read_index(self.diffusion_folder / subfolder, "diffusion_pytorch_model")

    @cached_property
    def codes_id(self) -> CodesId:
        """What image codes of this checkpoint mean."""
        prefix = image_tokenizer.PREFIX + image_tokenizer.CODEBOOK_PREFIX
        entries = {name: entry for name, entry in self.tensors.items() if name.startswith(prefix)}
        if sum(entry.nbytes for entry in entries.values()) > _MOST_CODEBOOK:
            raise Blip3oError(f"The codebook in {self.folder} is larger than any that was published. {_DAMAGED}")
        codebook = {name: read_tensor(entry) for name, entry in entries.items()}
        return CodesId(
            num_codes=self.vocabulary.num_codes,
            image_start=self.vocabulary.image_start,
            grid=self.grid,
            tokenizer=self.prompt_encoder.digest,
            codebook=image_tokenizer.codebook_digest(codebook) if codebook else None,
        )
