"""How well a checkpoint edits, by kind of instruction: the gate of the stages `edit` and `latents`."""

from ...checkpoint import Checkpoint
from ...pipeline import Pipeline
from ..edit_evaluation import Settings, evaluate


def gate(
    checkpoint: Checkpoint, count: int = 300, mode: str = "both", edition: int = 1, device: str = "cpu"
) -> dict[str, float]:
    """Share of held-back edits that are right, by kind. `outside`: error, of 255, of pixels that must not change."""
    settings = Settings(count=count, steps=12, guidance=1.0, edition=edition)
    result = evaluate(Pipeline(checkpoint, device), settings, mode)
    surfaces = {} if result.surfaces is None else {"surfaces": result.surfaces}
    return {**result.right, "outside": result.outside["mean"], **surfaces}
