"""Several image tokens a pass, and the same tokens: what comes next is guessed, and one pass checks all guesses.

- Token i is what the distribution given the tokens before it makes of the i-th uniform number of the row's seed, so
  nothing is left to chance. A guess is checked by choosing with the same number from the distribution that the guesses
  before it give. Up to the first wrong guess these are the plain loop's tokens, and the token chosen in place of that
  guess is right as well.
- The tokens chosen behind it are the next pass's guesses: Jacobi's iteration for the fixed point of "choose every token
  given the others". Speculative Jacobi decoding (arXiv 2410.01699) has no such numbers and accepts by rejection
  sampling.
- Rounding: a product over several tokens may differ in the last bit from that over one, so a number that falls within
  that bit of the edge between two tokens may give the other one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from .direct import DirectStep
from .interface import Callback, Decoded, Prefilled, report
from .sampling import Chooser

WINDOW = 16  # most tokens fed in a pass; 8 to 16 took about as long


def decode_speculatively(
    prefilled: Prefilled,
    choose: Chooser,
    callback: Callback | None,
    window: int = WINDOW,
    guess: "Guess | None" = None,
) -> Decoded:
    """Engine "speculative": one row, image tokens only."""
    lm = prefilled.lm
    ids, hidden = prefilled.new_outputs()
    guess = guess or NeighbourGuess(lm.grid[1], choose.first_id + lm.vocabulary.num_codes - 1)
    step = WindowStep(prefilled)

    def states_of(tokens: list[int], first: int) -> torch.Tensor:
        return step(prefilled.embed(torch.tensor(tokens, device=ids.device)), first)

    def choose_from(states: torch.Tensor, first: int) -> torch.Tensor:
        return choose(states, choose.uniforms[0, first : first + len(states)])

    hidden[:, 0] = prefilled.state[:, 0]
    lookahead = Lookahead(states_of, choose_from, guess, window)
    ids[0, :1] = lookahead.start(prefilled.state, prefilled.total)
    report(callback, 1, ids)
    while lookahead.fed < prefilled.total:
        before, fed = len(lookahead.known), lookahead.fed
        states = lookahead.advance()
        hidden[0, fed + 1 : lookahead.fed + 1] = states[:, 0]
        ids[0, before : len(lookahead.known)] = torch.tensor(lookahead.known[before:], device=ids.device)
        for done in range(before + 1, len(lookahead.known) + 1):
            report(callback, done, ids)
    return Decoded(ids, [prefilled.total], hidden)


class WindowStep(DirectStep):
    """Feeds several tokens of one row at once. They stand where other steps have the batch's rows."""

    def __init__(self, prefilled: Prefilled):
        """`prefilled`: of one row, without padding."""
        super().__init__(prefilled.lm, prefilled.cache, prefilled.positions, None)
        total, device = prefilled.total, prefilled.device
        later = torch.ones(total, self.begin + total, dtype=torch.bool, device=device).triu(self.begin + 1)
        # Numbers to add, not booleans: those would be turned into numbers in every layer.
        self._bias = prefilled.state.new_zeros(later.shape).masked_fill_(later, float("-inf"))[:, None, None]

    def __call__(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """(n, 1, D) embeddings of the tokens fed as the `step`-th and following -> (n, 1, D) after the final norm.

        What the cache has at these positions is replaced; what it has behind them is not looked at.
        """
        self.rows = len(x)
        return super().__call__(x, step)

    def _mask(self, step):
        return self._bias[step : step + self.rows, :, :, : self.begin + step + self.rows]

    def _cached(self, store, k, v, step):
        first, end = self.begin + step, self.begin + step + self.rows
        for cached, new in zip(store, (k, v), strict=True):
            cached[0, :, first:end] = new.transpose(0, 1)
        return tuple(cached[:, :, :end].expand(self.rows, -1, -1, -1) for cached in store)

    def _rotated(self, x, step):
        return self.rotate(x, *(table[0, step : step + self.rows] for table in self.tables))


class Guess(Protocol):
    """Guesses the next token from those before it."""

    def learn(self, known: list[int]) -> None:
        """`known`: all tokens that are known to be right, more with each call."""

    def __call__(self, tokens: list[int]) -> int:
        """The token behind `tokens`, whose last ones are guesses themselves."""
        ...


class NeighbourGuess:
    """The token above the next one, or the code after the one before it.

    Of the two rules, the one that has been right more often in this image. The second suits the bundled model, whose
    codes of an empty background are numbered by position; nothing is known about published vocabularies.
    """

    def __init__(self, columns: int, last: int):
        """`columns` of the token grid; `last` id of an image token."""
        self._columns, self._last = columns, last
        self._above, self._after, self._learned = 0, 0, columns

    def learn(self, known: list[int]) -> None:
        for index in range(self._learned, len(known)):
            self._above += known[index] == known[index - self._columns]
            self._after += known[index] == known[index - 1] + 1
        self._learned = max(self._learned, len(known))

    def __call__(self, tokens: list[int]) -> int:
        if len(tokens) >= self._columns and self._above > self._after:
            return tokens[-self._columns]
        return min(tokens[-1] + 1, self._last)


@dataclass
class Lookahead:
    """Tokens of one row: those known to be right, and guesses behind them."""

    states_of: Callable[[list[int], int], torch.Tensor]  # tokens fed from step k on -> (n, 1, D)
    choose_from: Callable[[torch.Tensor, int], torch.Tensor]  # (n, 1, D) states of tokens before step k... -> (n,) ids
    guess: Guess
    window: int
    known: list[int] = field(default_factory=list)  # one token more than have been fed, until the last
    guesses: list[int] = field(default_factory=list)
    fed: int = 0
    total: int = 0
    passes: int = 0
    reach: int = 0  # tokens of the next pass; fewer while guesses are wrong, so that bad ones cost little

    def start(self, state: torch.Tensor, total: int) -> int:
        """The first token, chosen from the prompt's last state (1, 1, D)."""
        self.total, self.reach = total, self.window
        self.known = self.choose_from(state, 0).tolist()
        return self.known[0]

    def advance(self) -> torch.Tensor:
        """One pass: feed known tokens and guesses, keep what proves right -> (accepted, 1, D) their states."""
        end = min(self.fed + self.reach, self.total)
        self.guess.learn(self.known)
        tokens = self.known + self.guesses[: end - len(self.known)]
        while len(tokens) < end:
            tokens.append(self.guess(tokens))
        states = self.states_of(tokens[self.fed : end], self.fed)
        checked = min(end - self.fed, self.total - 1 - self.fed)  # nothing follows the last token
        chosen = self.choose_from(states[:checked], self.fed + 1).tolist() if checked else []
        right = equal_at_start(chosen, tokens[self.fed + 1 : end])
        accepted = right + 1
        self.known, self.guesses = self.known + chosen[:accepted], chosen[accepted:]
        self.fed += accepted
        self.passes += 1
        self.reach = min(self.window, self.reach * 2 if right else max(2, self.reach - 3))
        return states[:accepted]


def equal_at_start(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences share from their beginning."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
