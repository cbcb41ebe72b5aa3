"""How well a checkpoint edits, by kind of instruction: the gate of the stages `edit` and `latents`."""

from ...checkpoint import Checkpoint
from ...pipeline import Pipeline
from ..edit_evaluation import Settings, evaluate
from ..scenes.edits import edit_kinds
from ..scenes.world import World
from .editions import world_of


def gate(
    checkpoint: Checkpoint, each: int = 50, mode: str = "both", edition: int = 1, device: str = "cpu"
) -> dict[str, float]:
    """Share of held-back edits that are right, by kind; `each` edits of a kind.

    `outside`: error, of 255, of pixels that must not change.
    """
    kinds = edit_kinds(world_of(World(), edition))
    settings = Settings(count=each * len(kinds), steps=12, guidance=1.0, edition=edition)
    result = evaluate(Pipeline(checkpoint, device), settings, mode)
    surfaces = {} if result.surfaces is None else {"surfaces": result.surfaces}
    return {**result.right, "outside": result.outside["mean"], **surfaces}
