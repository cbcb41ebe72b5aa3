"""The tiny trained model that comes with the library, and its names."""

from pathlib import Path

from ..errors import Blip3oError, shown

BUNDLED = Path(__file__).parents[1] / "tiny" / "checkpoint"
NAME = "BLIP3o-NEXT-tiny (bundled)"
SHORT_NAME = "tiny"


def resolve_checkpoint(name: str | Path | None) -> Path:
    """The folder of the checkpoint `name`: "tiny" and None mean the bundled one, anything else is a folder.

    A folder that is called tiny is "./tiny".
    """
    if name is not None and name != SHORT_NAME:
        return expand(name)
    if not (BUNDLED / "config.json").is_file():
        raise Blip3oError(
            f"The bundled model is missing: {BUNDLED} contains no config.json, so this copy of the library is "
            "incomplete. Copy it again with that folder, or choose another checkpoint."
        )
    return BUNDLED


def expand(folder: str | Path) -> Path:
    """A folder that a user named: "~" is the home folder, as in a shell."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:  # a user who is not there
        return Path(folder)


def display_name(folder: Path) -> str:
    """What a checkpoint is called in results that travel: never where it lies on this machine."""
    return NAME if folder == BUNDLED else shown(folder.name)
