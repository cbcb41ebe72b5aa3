"""Several image tokens a pass, and the same tokens: what comes next is guessed, and one pass checks all guesses.

- Token i is what the distribution given the tokens before it makes of the i-th uniform number of the row's seed: with
  the seed drawn, nothing is left to chance. So a guess is checked by drawing with the same number from the distribution
  that the guesses before it give. Up to the first wrong guess these are the plain loop's tokens, and what is drawn in
  the place of that guess is right as well.
- What is drawn behind it is the next pass's guess: Jacobi's iteration for the fixed point of "draw every token given
  the others". Speculative Jacobi decoding (arXiv 2410.01699) has no such numbers and accepts by rejection sampling.
- Rounding: a product over several tokens may differ in the last bit from that over one, so a number that falls within
  that bit of the edge between two tokens may give the other one.
"""

from collections.abc import Callable

import torch

from ..models.language import KVCache, LanguageModel
from .direct import Stepper


class WindowStepper(Stepper):
    """Feeds several tokens of one row at once. They stand where other steppers have the batch's rows."""

    def __init__(self, lm: LanguageModel, cache: KVCache, positions: torch.Tensor):
        """`positions` (1, total): of all tokens that will be fed. `cache`: of one row, without padding."""
        super().__init__(lm, cache, positions, None)
        total = positions.shape[1]
        later = torch.ones(total, self.begin + total, dtype=torch.bool, device=positions.device).triu(self.begin + 1)
        # Numbers, not truths: those would be turned into numbers in every layer.
        self._bias = cache.data.new_zeros(later.shape).masked_fill_(later, float("-inf"))[:, None, None]

    def __call__(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """(n, 1, D) embeddings of the tokens fed as the `step`-th and following -> (n, 1, D) after the final norm.

        What the cache has of these places is replaced, what it has behind them is not looked at.
        """
        self.rows = len(x)
        return super().__call__(x, step)

    def _mask(self, step):
        return self._bias[step : step + self.rows, :, :, : self.begin + step + self.rows]

    def _kept(self, store, k, v, step):
        place, end = self.begin + step, self.begin + step + self.rows
        for kept, new in zip(store, (k, v), strict=True):
            kept[0, :, place:end] = new.transpose(0, 1)
        return tuple(kept[:, :, :end].expand(self.rows, -1, -1, -1) for kept in store)

    def _turned(self, x, step):
        return self.rotated(x, *(table[0, step : step + self.rows] for table in self.tables))


class Neighbours:
    """Guesses the next token: the one above it, or the code after the one before it.

    Of the two rules, the one that has been right more often in this picture. The second suits the bundled model, whose
    codes of an empty ground are numbered by place; nothing is known of published vocabularies.
    """

    def __init__(self, columns: int, last: int):
        """`columns` of the token grid; `last` id of an image token."""
        self._columns, self._last = columns, last
        self._above, self._after, self._learned = 0, 0, columns

    def learn(self, known: list[int]) -> None:
        """All tokens that are known to be right, more with each call."""
        for place in range(self._learned, len(known)):
            self._above += known[place] == known[place - self._columns]
            self._after += known[place] == known[place - 1] + 1
        self._learned = max(self._learned, len(known))

    def __call__(self, line: list[int]) -> int:
        """The token behind `line`, whose last tokens are guesses themselves."""
        if len(line) >= self._columns and self._above > self._after:
            return line[-self._columns]
        return min(line[-1] + 1, self._last)


def fill_ahead(
    stepper: WindowStepper,
    state: torch.Tensor,
    out: torch.Tensor,
    hidden: torch.Tensor,
    choose: Callable[[torch.Tensor, int], torch.Tensor],
    embed: Callable[[torch.Tensor], torch.Tensor],
    window: int,
    guess: Neighbours,
    note: Callable[[int], None] | None = None,
) -> int:
    """Fill `out` (1, total) and `hidden` (1, 1 + total, D) of one row; the number of passes is returned.

    `state` (1, 1, D): behind the prompt. `choose((n, 1, D) states, step) -> (n,)` ids of tokens `step` and following,
    each by its own uniform number. `embed((n,)) -> (n, 1, D)`. `window`: most tokens fed in a pass, 1 or more; fewer
    while guesses are wrong, so that bad ones cost little.
    `note(done)`: once per token, in order; it may raise to cancel.
    """
    total, passes, fed, guesses, reach = out.shape[1], 0, 0, [], window
    hidden[:, 0] = state[:, 0]
    out[:, :1] = choose(state, 0)
    known = out[0, :1].tolist()  # one token more than have been fed, until the last
    if note is not None:
        note(1)
    while fed < total:
        end = min(fed + reach, total)
        guess.learn(known)
        line = known + guesses[: end - len(known)]
        while len(line) < end:
            line.append(guess(line))
        states = stepper(embed(torch.tensor(line[fed:end], device=out.device)), fed)
        passes += 1
        checked = min(end - fed, total - 1 - fed)  # nothing follows the last token
        drawn = choose(states[:checked], fed + 1) if checked else out[0, :0]
        ids = drawn.tolist()
        right = _agreeing(ids, line[fed + 1 : end])
        hidden[0, fed + 1 : fed + 2 + right] = states[: right + 1, 0]
        new, guesses = ids[: right + 1], ids[right + 1 :]
        out[0, fed + 1 : fed + 1 + len(new)] = drawn[: len(new)]
        known += new
        if note is not None:
            for done in range(len(known) - len(new), len(known)):
                note(done + 1)
        fed += right + 1
        reach = min(window, reach * 2 if right else max(2, reach - 3))
    return passes


def _agreeing(one: list[int], other: list[int]) -> int:
    """How many tokens two beginnings share."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
