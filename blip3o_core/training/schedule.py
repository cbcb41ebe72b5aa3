"""The learning rate over a run, as a share of each parameter group's peak."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Rises linearly for `warmup` steps, stays at the peak for one, then falls as a cosine until `steps`."""

    steps: int
    warmup: int = 0
    final: float = 0.0  # where the cosine ends, as a share of the peak; 1 keeps the rate constant

    def scale(self, step: int) -> float:
        """Share of the peak at a step counted from 0. The first step of a warm-up is 1 / warmup, not 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
