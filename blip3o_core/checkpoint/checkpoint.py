"""Recognise a checkpoint folder by its tensors and config fields, say what it is, and load its parts.

- One folder holds every weight (language model, connector, SANA, DC-AE, TA-Tok); the diffusion folder beside it, inside
  it or given only says how SANA and DC-AE are built (reference.md 7). Its own weights are used for a part that the
  checkpoint does not hold at all.
- Folder names, shard names and `model_type` ("qwen3") decide nothing.
- Opening reads headers and JSON. Parts are built on the meta device, checked whole, then given memory-mapped weights.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from ..diffusion.reference_mode import ReferenceMode
from ..errors import Blip3oError
from ..models import autoencoder, diffusion_transformer, image_tokenizer, meanflow
from ..models.connector import build_connector
from ..models.language import ConnectorWidths, LanguageModel
from ..prompts.encoder import PromptEncoder
from ..prompts.vocabulary import CodesId, Vocabulary
from ..weights import tensors as weights
from ..weights.names import (
    CONNECTOR,
    EDIT_CONNECTORS,
    FEATURES_CONNECTOR,
    LANGUAGE_TENSORS,
    REFERENCE_CONNECTOR,
    SANA,
    VAE,
)
from ..weights.tensors import Table, read_json, strip_prefix
from . import diffusion_folder as diffusion_folders

LANGUAGE, TRANSFORMER, AUTOENCODER = "language model", "diffusion transformer", "autoencoder"
TOKENIZER = "image tokenizer (TA-Tok)"
# Taken only where a checkpoint does not say.
PUBLISHED_GRID = (27, 27)
PUBLISHED_CELLS = 32
_CODEBOOK = image_tokenizer.PREFIX + "bottleneck.regularizer."
_LM_FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "rms_norm_eps", "max_position_embeddings", "head_dim",
)  # fmt: skip
_TRANSFORMER_FIELDS = ("in_channels", "num_layers", "num_attention_heads", "attention_head_dim", "caption_channels")
_AUTOENCODER_FIELDS = ("latent_channels", "decoder_block_out_channels", "scaling_factor")


def find_checkpoints(root: str | Path, depth: int = 3) -> list[str]:
    """Folders under `root` that look like a checkpoint, relative, with '/'. Looks at names only and never raises."""
    found: list[str] = []

    def look(folder: Path, level: int) -> None:
        try:
            names = {entry.name: entry for entry in folder.iterdir()}
            if "config.json" in names and ("model.safetensors" in names or "model.safetensors.index.json" in names):
                found.append(folder.relative_to(root).as_posix())
            elif level < depth:
                for name in sorted(names):
                    if not name.startswith(".") and names[name].is_dir():
                        look(names[name], level + 1)
        except OSError:
            return

    look(Path(root), 0)
    return sorted(found)


def open_checkpoint(folder: str | Path, diffusion_folder: str | Path | None = None) -> "Checkpoint":
    """Recognise the checkpoint in `folder`. Raises Blip3oError saying what is missing or what it is instead."""
    folder = Path(folder)
    if not folder.is_dir():
        raise Blip3oError(
            f"{folder} is not a folder. Give the folder that holds config.json and the .safetensors files."
        )
    config = read_json(folder / "config.json")
    table = weights.read_table(folder)
    if "model.embed_tokens.weight" not in table or CONNECTOR + "0.weight" not in table:
        shown = ", ".join(sorted(table)[:4]) or "nothing"
        raise Blip3oError(
            f"{folder} is not a BLIP3o-NEXT checkpoint: it has no {CONNECTOR}* beside model.embed_tokens "
            f"(found {shown}, ...; architectures {config.get('architectures')}). Choose another folder."
        )
    _require({"rope_theta": _rope_theta(config), **config}, (*_LM_FIELDS, "rope_theta"), folder / "config.json")
    generation = folder / "generation_config.json"
    vocabulary = Vocabulary.from_config(config, read_json(generation) if generation.is_file() else {}, folder)
    configs = diffusion_folders.find(folder, diffusion_folder, table, config)
    tower = image_tokenizer.tower_shape(strip_prefix(table, image_tokenizer.PREFIX), folder, config)
    if tower and tower.codes != vocabulary.num_codes:
        raise Blip3oError(
            f"{folder / 'config.json'} says num_image_tokens {vocabulary.num_codes}, the codebook has {tower.codes} "
            "codes. The file does not belong to these weights; copy it again."
        )
    return Checkpoint(
        folder=folder, diffusion_folder=configs, config=config, vocabulary=vocabulary, table=table,
        transformer_config=_require_file(configs / "transformer" / "config.json", _TRANSFORMER_FIELDS),
        autoencoder_config=_require_file(configs / "vae" / "config.json", _AUTOENCODER_FIELDS),
        tower=tower,
    )  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """One recognised checkpoint: what it is, and its parts on demand."""

    folder: Path
    diffusion_folder: Path
    config: dict
    vocabulary: Vocabulary
    table: Table = field(repr=False)
    transformer_config: dict = field(repr=False)
    autoencoder_config: dict = field(repr=False)
    tower: image_tokenizer.TowerShape | None

    @property
    def family(self) -> str:
        """'edit' when a reference connector or an edit switch is there, else 'text-to-image'."""
        tensors = any(name.startswith(tuple(EDIT_CONNECTORS.values())) for name in self.table)
        return "edit" if tensors or any(self.switches.values()) else "text-to-image"

    @property
    def switches(self) -> dict[str, bool]:
        """The edit switches of config.json that decide how references enter (reference.md 6.7)."""
        names = (*EDIT_CONNECTORS, "only_use_und_image_vae_as_noise")
        return {name: bool(self.config.get(name)) for name in names}

    @property
    def reference_mode(self) -> ReferenceMode:
        return ReferenceMode.from_switches(self.switches)

    @cached_property
    def is_meanflow(self) -> bool:
        """Whether the transformer is a few-step one, see `meanflow`."""
        return meanflow.has_meanflow_tensors(self._diffusion_table(SANA, "transformer"))

    @property
    def grid(self) -> tuple[int, int]:
        """(H, W) of the image tokens: the image tokenizer's, the published one where the checkpoint holds none."""
        return self.tower.grid if self.tower else PUBLISHED_GRID

    @property
    def shift(self) -> float:
        """The flow shift that the authors' scheduler ends up with: `shift`, never `flow_shift` (reference.md 5)."""
        path = self.diffusion_folder / "scheduler" / "scheduler_config.json"
        shift = read_json(path).get("shift") if path.is_file() else None
        return _number(1.0 if shift is None else shift, "shift", path)

    @property
    def latent_multiple(self) -> int:
        """Pixels that width and height must be a multiple of."""
        return autoencoder.compression(self.autoencoder_config) * self.transformer_config.get("patch_size", 1)

    @property
    def trained_side(self) -> int:
        """Pixels on a side of the pictures that the transformer was trained on."""
        cells = self.transformer_config.get("sample_size") or PUBLISHED_CELLS
        return cells * autoencoder.compression(self.autoencoder_config)

    @property
    def prompt_limit(self) -> int:
        """Longest prompt in tokens."""
        path = self.folder / "tokenizer_config.json"
        saved = read_json(path).get("model_max_length") if path.is_file() else None
        limit = saved or self.config.get("tokenizer_model_max_length") or self.config["max_position_embeddings"]
        room = self.config["max_position_embeddings"] - self.grid[0] * self.grid[1]
        return int(min(_number(limit, "model_max_length", path), room))

    @cached_property
    def identity(self) -> str:
        """Changes when a file of the checkpoint is replaced: configs, tensor names and shapes, file sizes and times."""
        files = sorted({entry.file for entry in self.table.values()})
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        names = sorted((name, entry.shape, entry.dtype) for name, entry in self.table.items())
        configs = [self.config, self.transformer_config, self.autoencoder_config]
        return hashlib.sha256(json.dumps([configs, names, stats], sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def codes_id(self) -> CodesId:
        """What image tokens of this checkpoint mean; tokens travel only between checkpoints that agree on it."""
        codebook = {
            name: weights.open_file(entry.file).get_slice(entry.name)
            for name, entry in self.table.items()
            if name.startswith(_CODEBOOK)
        }
        return CodesId(
            self.vocabulary.num_codes, self.vocabulary.image_start, self.grid, self.prompt_encoder.fingerprint,
            image_tokenizer.codebook_digest(codebook) if codebook else None,
        )  # fmt: skip

    @cached_property
    def prompt_encoder(self) -> PromptEncoder:
        return PromptEncoder(self.folder, self.vocabulary, self.prompt_limit)

    @property
    def tied(self) -> bool:
        """Whether the output matrix is the embedding."""
        return bool(self.config.get("tie_word_embeddings", "lm_head.weight" not in self.table))

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The tensors of each part, named as in its network; every tensor was compared with the config files.

        Raises one Blip3oError that lists all that does not fit.
        """
        tables = {
            LANGUAGE: {name: entry for name, entry in self.table.items() if name.startswith(LANGUAGE_TENSORS)},
            TRANSFORMER: self._diffusion_table(SANA, "transformer"),
            AUTOENCODER: self._diffusion_table(VAE, "vae"),
        }
        if self.tower:
            tables[TOKENIZER] = strip_prefix(self.table, image_tokenizer.PREFIX)
        ignored = {LANGUAGE: ("lm_head.",) if self.tied else (), TOKENIZER: image_tokenizer.UNUSED}
        if self.is_meanflow:
            ignored[TRANSFORMER] = (meanflow.UNUSED_PREFIX,)
        known = (*LANGUAGE_TENSORS, SANA, VAE, image_tokenizer.PREFIX, *EDIT_CONNECTORS.values())
        lines = [f"unexpected: {name}" for name in self.table if not name.startswith(known)]
        lines += self._missing_connectors()
        lines += [f"{TRANSFORMER}, {line}" for line in meanflow.missing_half(tables[TRANSFORMER])]
        for part, table in tables.items():
            found = weights.compare(self._build(part), table, ignored.get(part, ()))
            lines += [f"{part}, {line}" for line in found]
        if lines:
            more = [f"and {len(lines) - 30} more"] if len(lines) > 30 else []
            raise Blip3oError(
                f"The tensors in {self.folder} do not fit its config files (diffusion folder {self.diffusion_folder}):"
                + "".join(f"\n  {line}" for line in lines[:30] + more)
                + "\nUse the config files and the diffusion folder that belong to this checkpoint, or copy it again."
            )
        return tables

    def _missing_connectors(self) -> list[str]:
        """Connectors that the edit switches ask for and that are not there, or take something else; a line each."""
        mode, lines = self.reference_mode, []
        wanted = [(REFERENCE_CONNECTOR, mode.cross, self.autoencoder_config["latent_channels"], "latent channels")]
        if self.tower:
            wanted.append((FEATURES_CONNECTOR, mode.features, self.tower.width, "features of the image tokenizer"))
        for name, asked, width, what in wanted:
            entry = self.table.get(name + "0.weight")
            if asked and entry is None:
                lines.append(f"missing: {name}*, which config.json asks for; add-references makes a new one")
            elif entry is not None and entry.shape[1] != width:
                lines.append(f"shape: {name}0.weight takes {entry.shape[1]}, there are {width} {what}")
        return lines

    def _build(self, part: str) -> torch.nn.Module:
        """The network of a part on the meta device, as its config file describes it."""
        builders = {
            LANGUAGE: self._language_model,
            TRANSFORMER: self._transformer,
            AUTOENCODER: lambda: autoencoder.build(self.autoencoder_config),
            TOKENIZER: lambda: image_tokenizer.ImageTokenizer(self.tower),
        }
        try:
            with torch.device("meta"):
                return builders[part]()
        except Blip3oError:
            raise
        except Exception as error:  # whatever a library says about a config it cannot build
            raise Blip3oError(
                f"No {part} can be built from the config files of {self.folder} and {self.diffusion_folder}: {error}. "
                "Copy them again."
            ) from error

    def _transformer(self):
        network = diffusion_transformer.build(self.transformer_config)
        return meanflow.add_time_embeddings(network) if self.is_meanflow else network

    def _language_model(self) -> LanguageModel:
        from transformers import Qwen3Config

        # The library's own bookkeeping fields would be read as those of another class or release.
        bookkeeping = ("model_type", "architectures", "transformers_version")
        fields = {key: value for key, value in self.config.items() if key not in bookkeeping}
        config = Qwen3Config(**{**fields, "rope_theta": _rope_theta(self.config)})
        config._attn_implementation = "sdpa"
        width = self.table[CONNECTOR + "0.weight"].shape[0]
        inputs = [self.table.get(name + "0.weight") for name in (REFERENCE_CONNECTOR, FEATURES_CONNECTOR)]
        reference, features = (entry.shape[1] if entry else None for entry in inputs)
        widths = ConnectorWidths(width, reference, features)
        return LanguageModel(config, self.vocabulary, self.grid, self.codes_id, widths, self.tied)

    def _diffusion_table(self, prefix: str, subfolder: str) -> Table:
        own = strip_prefix(self.table, prefix)
        if own:
            return own
        return weights.read_table(self.diffusion_folder / subfolder, "diffusion_pytorch_model")

    def _load(self, part: str, dtype: torch.dtype | None) -> torch.nn.Module:
        if part not in self.tables:
            raise Blip3oError(f"{self.folder} holds no {part}. Use a checkpoint that has it.")
        network = self._build(part)
        weights.assign(network, self.tables[part], dtype)
        return network

    def load_language(self, dtype: torch.dtype | None = None) -> LanguageModel:
        """Language model with its connector, on the CPU, frozen. `dtype` None: as stored."""
        network = self._load(LANGUAGE, dtype)
        network.model.rotary_emb = type(network.model.rotary_emb)(config=network.config)
        return network

    def load_reference_connector(self, dtype: torch.dtype | None = None) -> torch.nn.Module | None:
        """The connector of `reference_mode.cross` alone, for a host that keeps it beside the transformer."""
        table = strip_prefix(self.tables[LANGUAGE], REFERENCE_CONNECTOR)
        if not table:
            return None
        with torch.device("meta"):
            connector = build_connector(table["0.weight"].shape[1], table["0.weight"].shape[0])
        weights.assign(connector, table, dtype)
        return connector

    def load_transformer(self, dtype: torch.dtype | None = None):
        """diffusers' SanaTransformer2DModel with this checkpoint's weights."""
        network = self._load(TRANSFORMER, dtype)
        diffusion_transformer.restore_buffers(network)
        return network

    def load_autoencoder(self, dtype: torch.dtype | None = None):
        """diffusers' AutoencoderDC with this checkpoint's weights."""
        return self._load(AUTOENCODER, dtype)

    def load_image_tokenizer(self, dtype: torch.dtype | None = None) -> image_tokenizer.ImageTokenizer:
        """TA-Tok up to its codes."""
        network = self._load(TOKENIZER, dtype)
        network.restore_buffers()
        return network


def _rope_theta(config: dict) -> float | None:
    """Configs saved by transformers 5 keep it in `rope_parameters`."""
    parameters = config.get("rope_parameters")
    return config.get("rope_theta", parameters.get("rope_theta") if isinstance(parameters, dict) else None)


def _require(config: dict, fields: tuple[str, ...], path: Path) -> dict:
    missing = [name for name in fields if config.get(name) is None]
    if missing:
        raise Blip3oError(
            f"{path} lacks {', '.join(missing)}; without them the network cannot be built. Copy it again."
        )
    return config


def _number(value, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Blip3oError(f"{path}: {name} is {value!r}, not a number. Copy the file again.")
    return value


def _require_file(path: Path, fields: tuple[str, ...]) -> dict:
    return _require(read_json(path), fields, path)
