"""Random choices that are the same on every machine."""

import random


class KeyedRandom:
    """Random choices that follow from a key.

    Only `Random.random` is used, because Python promises that its numbers never change. The keys decide every scene:
    a changed key makes a different world.
    """

    def __init__(self, *key):
        self._random = random.Random("/".join(map(str, key))).random

    def chance(self, share: float) -> bool:
        return self._random() < share

    def below(self, n: int) -> int:
        return int(self._random() * n)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def choice(self, options):
        return options[self.below(len(options))]

    def sample(self, options, count: int) -> list:
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]

    def weighted(self, pairs):
        rest = self.uniform(0, sum(weight for _, weight in pairs))
        for value, weight in pairs:
            if (rest := rest - weight) < 0:
                return value
        return next(value for value, weight in reversed(pairs) if weight > 0)
