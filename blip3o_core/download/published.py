"""The checkpoints that can be downloaded by name."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import Blip3oError, did_you_mean, shown

# What a checkpoint is loaded from. Everything else in a repository stays there.
_CHECKPOINT_FILES = (
    "model*.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "merges.txt", "added_tokens.json", "special_tokens_map.json", "generation_config.json", "config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    name: str
    repository: str
    does: str
    licence: str = "see the model card"
    gigabytes: float | None = None  # counted: 2 bytes for each parameter of its layout. None: not known
    files: tuple[str, ...] = _CHECKPOINT_FILES

    def wants(self, file: str) -> bool:
        return not {"/", "\\"} & set(file) and any(fnmatchcase(file, pattern) for pattern in self.files)


PUBLISHED = (
    Published("BLIP3o-NEXT-SFT-3B", "BLIP3o/BLIP3o-NEXT-SFT-3B", "text to image", gigabytes=9.6),
    Published(
        "BLIP3o-NEXT-GRPO-TexT-3B", "BLIP3o/BLIP3o-NEXT-GRPO-TexT-3B", "text to image, trained to write text in images",
        gigabytes=8.7,
    ),
    Published(
        "BLIP3o-NEXT-GRPO-Geneval-3B", "BLIP3o/BLIP3o-NEXT-GRPO-Geneval-3B",
        "text to image, trained to follow counts, colours and positions", gigabytes=8.7,
    ),
    Published(
        "BLIP3o-NEXT-Pretrain-3B", "BLIP3o/BLIP3o-NEXT-Pretrain-3B", "text to image, before tuning", gigabytes=9.6,
    ),
    Published("BLIP3o-NEXT-edit-VAE", "BLIP3o/BLIP3o-NEXT-edit-VAE", "edits", "Apache-2.0", 9.6),
    Published(
        "TA-Tok", "csuhan/TA-Tok", "image tokenizer alone, for a checkpoint without one", files=("ta_tok.pth",)
    ),
)  # fmt: skip


def download_line(folder: str) -> str:
    """What to type to get the checkpoint that a folder is called after, or to see which there are."""
    name = folder.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return f"blip3o download {next((each.name for each in PUBLISHED if each.name.lower() == name), '--list')}"


def find_published(name: str) -> Published:
    """By its name or its repository, in any case. Raises Blip3oError that lists what there is."""
    known = {key.lower(): each for each in PUBLISHED for key in (each.name, each.repository)}
    if name.lower() in known:
        return known[name.lower()]
    names = [each.name for each in PUBLISHED]
    hint = did_you_mean(name.rpartition("/")[2], names)
    raise Blip3oError(
        f"There is no checkpoint {shown(repr(name), 80)} to download. {hint}{' ' if hint else ''}Choose one of: "
        f"{', '.join(names)}."
    )
