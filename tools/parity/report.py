"""One line per case and quantity, worst error first decided by the quantity's own tolerance."""

import torch

ACTIVATION, IMAGE = 1e-4, 1e-3
# What the encoders are given is resized to 8 bits by the same code.
PIXEL = 1e-6


class Report:
    """Collects comparisons of one case; the same quantity compared again keeps its worst error."""

    def __init__(self, case: str):
        self.case, self.worst = case, {}

    def exact(self, quantity: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Error: the number of entries that differ (every one, when the shapes do)."""
        same = ours.shape == theirs.shape
        self._keep(quantity, float((ours.cpu() != theirs.cpu()).sum()) if same else float(theirs.numel()), 0.0)

    def close(self, quantity: str, ours: torch.Tensor, theirs: torch.Tensor, limit: float = ACTIVATION) -> None:
        """Error: largest difference relative to the largest recorded value."""
        self._keep(quantity, _distance(ours, theirs, relative=True), limit)

    def image(self, quantity: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        """Error: largest difference, values in [0, 1]."""
        self._keep(quantity, _distance(ours, theirs, relative=False), IMAGE)

    def _keep(self, quantity: str, error: float, limit: float) -> None:
        before = self.worst.get(quantity, (0.0, limit))[0]
        self.worst[quantity] = (max(before, error), limit)

    @property
    def failed(self) -> list[str]:
        return [name for name, (error, limit) in self.worst.items() if not error <= limit]

    def lines(self) -> list[str]:
        return [
            f"{'ok  ' if error <= limit else 'FAIL'} {self.case:32} {name:32} {error:.2e} (limit {limit:.0e})"
            for name, (error, limit) in self.worst.items()
        ]


def _distance(ours: torch.Tensor, theirs: torch.Tensor, relative: bool) -> float:
    if ours.shape != theirs.shape or not bool(torch.isfinite(ours).all()):
        return float("inf")
    worst = (ours.cpu().double() - theirs.cpu().double()).abs().max().item()
    return worst / max(theirs.abs().max().item(), 1e-12) if relative else worst
