"""How well a checkpoint edits, by kind of instruction: the gate of the stage `latents`."""

from ...checkpoint import Checkpoint
from ...pipeline import Pipeline
from ..edit_evaluation import Settings, evaluate
from ..evaluation import edition_of


def gate(checkpoint: Checkpoint, each: int = 50, mode: str = "both", device: str = "cpu") -> dict[str, float]:
    """Share of held-back edits that are right, by kind; `each` edits of a kind.

    `outside`: error, of 255, of pixels that must not change.
    """
    edition = edition_of(checkpoint)
    settings = Settings(count=each * len(Settings(edition=edition).kinds), steps=12, guidance=1.0, edition=edition)
    result = evaluate(Pipeline(checkpoint, device), settings, mode)
    surfaces = {} if result.surfaces is None else {"surfaces": result.surfaces}
    return {**result.right, "outside": result.outside["mean"], **surfaces}
