"""How well a checkpoint edits, by kind of instruction: the gate behind the edit stage."""

from ...checkpoint.checkpoint import Checkpoint
from ...pipeline import Pipeline
from ..edit_evaluation import Settings, evaluate


def gate(checkpoint: Checkpoint, count: int = 300, way: str = "+ both") -> dict[str, float]:
    """Share of held-back edits that are right, by kind; `outside`: mean error, of 255, where nothing may change."""
    result = evaluate(Pipeline(checkpoint), Settings(count=count, steps=12, guidance=1.0), way)
    return {**result.right, "outside": result.outside["mean"]}
