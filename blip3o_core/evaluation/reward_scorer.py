"""Any reward as a scorer of a task: its number is the measure `score`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import Blip3oError
from ..rewards.interface import Candidates
from ..rewards.mix import Part, RewardMix
from .interface import Item

MEASURE = "score"


@dataclass(frozen=True)
class RewardScorer:
    """A reward of a list. It gets an item's `facts` and `meta` together as what a task says besides its prompt."""

    part: Part
    decisive: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.part.name

    @property
    def version(self) -> str:
        return str(self.part.reward.version)

    @property
    def measures(self) -> Mapping[str, tuple[float, float]]:
        return {MEASURE: self.part.reward.range}

    @cached_property
    def _mix(self) -> RewardMix:
        """One for all calls: it knows whether the reward still works on images of an earlier one."""
        return RewardMix([replace(self.part, on_error="skip")])

    def __call__(
        self, items: Sequence[Item], candidates: Candidates
    ) -> Sequence[Mapping[str, float | None] | None | Exception]:
        meta = [{**item.facts, **item.meta} for item in items]
        scores = self._mix.score(replace(candidates, meta=meta))
        return [
            Blip3oError(why) if why else None if value is None else {MEASURE: value}
            for value, why in zip(scores.parts[self.name], scores.why[self.name], strict=True)
        ]
