"""The tiny trained model that comes with the library, and the choice of it where no other is named."""

from pathlib import Path

from ..errors import Blip3oError

BUNDLED = Path(__file__).parents[1] / "tiny" / "checkpoint"
NAME = "BLIP3o-NEXT-tiny (bundled)"


def resolve_checkpoint(folder: str | Path | None) -> Path:
    """`folder`, or the bundled checkpoint's when it is None."""
    if folder is not None:
        return Path(folder)
    if not (BUNDLED / "config.json").is_file():
        raise Blip3oError(
            f"The bundled model is not at {BUNDLED}: this copy of the library is incomplete. Copy it again with that "
            "folder, or choose another checkpoint."
        )
    return BUNDLED


def display_name(folder: Path) -> str:
    """What a checkpoint is called where its place on this machine does not belong."""
    return NAME if folder == BUNDLED else folder.name
