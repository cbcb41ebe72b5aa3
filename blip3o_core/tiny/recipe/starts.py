"""What the training in a folder began from: its state is not continued when that was trained anew since."""

from collections.abc import Sequence
from pathlib import Path

from ...checkpoint import Checkpoint
from ...checkpoint.facts import AUTOENCODER, LANGUAGE
from ...errors import Blip3oError
from ...files import read_optional_json, write_json
from ...weights.digest import digest_of
from ...weights.names import CONNECTOR

_NOTE = "begun_from.json"


def language_digest(checkpoint: Checkpoint) -> str:
    """Equal for language models with the same weights, whatever their connectors are."""
    tensors = checkpoint.parts[LANGUAGE].items()
    return digest_of({name: entry for name, entry in tensors if not name.startswith(CONNECTOR)})


def encoder_digest(checkpoint: Checkpoint) -> str:
    """Equal for autoencoders with the same encoder, whose latents are the same."""
    tensors = checkpoint.parts[AUTOENCODER].items()
    return digest_of({name: entry for name, entry in tensors if name.startswith("encoder.")})


def claim(folder: Path, start: str, behind: Sequence[Path] = ()) -> None:
    """Note that the training in `folder` begins from `start`. A state without a note is taken as it is.

    Raises Blip3oError when the state that is there was begun from something else; then what is `behind` is old, too.
    """
    note = folder / _NOTE
    before = read_optional_json(note, f"Remove {folder} to train it again.")
    if (folder / "state.pt").is_file() and before not in ({}, {"start": start}):
        old = " and ".join(str(one) for one in (folder, *behind) if one.is_dir())
        raise Blip3oError(
            f"{folder} was begun from other weights than those before it are now. Continuing it would mix the two. "
            f"Remove {old}, then run the same command again."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(note, {"start": start})
