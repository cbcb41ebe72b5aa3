"""Decode steps of a fixed shape, recorded once as a CUDA graph and then only repeated: on a GPU the time of a step is
that of launching a thousand small kernels, unless they are launched as one.

The whole step is on the device: output matrix, choice of the token, its embedding, the layers. What changes from step
to step (position, what attention may see, results) lies in buffers. A graph lives for one run: recording costs about
three steps, and no graph is left behind that points at weights which a host moves or frees.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch

from ..models.language import KVCache, LanguageModel
from .direct import Stepper

WARM_UP = 2  # runs before the recording, in which libraries set up what they may not set up in one


class Repeatable(Protocol):
    """A step on memory that stays: `rewind` is called before the first one."""

    def __call__(self) -> None: ...

    def rewind(self) -> None: ...


class FixedStepper(Stepper):
    """A step looks at the whole cache, masked, and finds its place in a tensor."""

    def __init__(self, lm: LanguageModel, cache: KVCache, positions: torch.Tensor, keep: torch.Tensor):
        """`positions` (B, total): of all tokens that will be fed. `keep` (B, S) bool: prompt tokens that count."""
        super().__init__(lm, cache, positions, None)
        # Numbers, not truths: those would be turned into numbers in every layer.
        self.bias = cache.data.new_zeros(len(keep), 1, 1, cache.data.shape[-2])
        self.at, self.step = (torch.zeros(1, dtype=torch.long, device=keep.device) for _ in range(2))
        self._prompt = torch.full(self.bias.shape, float("-inf"), device=keep.device, dtype=self.bias.dtype)
        self._prompt[:, 0, 0, : self.begin].masked_fill_(keep, 0)
        self.rewind()

    def rewind(self) -> None:
        """Back to the end of the prompt."""
        self.bias.copy_(self._prompt)
        self.step.zero_()
        self.at.fill_(self.begin)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, D) embeddings of the next token -> (B, 1, D) after the final norm."""
        self.bias.index_fill_(3, self.at, 0.0)
        self._now = tuple(table.index_select(1, self.step)[:, 0] for table in self.tables)
        state = self(x, self.step)
        self.step.add_(1)
        self.at.add_(1)
        return state

    def _mask(self, step):
        return self.bias

    def _kept(self, store, k, v, step):
        keys, values = store
        keys.index_copy_(2, self.at, k[:, :, None])
        values.index_copy_(2, self.at, v[:, :, None])
        return keys, values

    def _turned(self, x, step):
        return self.rotated(x, *self._now)


class FixedLoop:
    """One call: the token after `state` chosen, noted and fed. Only buffers change, so that a call can be repeated."""

    def __init__(self, stepper: FixedStepper, state, out, hidden, choose: Callable, embed: Callable):
        """`state` (B, 1, D) after the prompt; `out` (b, total), `hidden` (b, 1 + total, D): filled, b rows being drawn.

        `choose(state, step (1,)) -> (b,)` ids; `embed((b,)) -> (B, 1, D)`.
        """
        self.stepper, self.out, self.hidden, self._choose, self._embed = stepper, out, hidden, choose, embed
        self._first, self._state = state, state.clone()

    def __call__(self) -> None:
        state, step = self._state, self.stepper.step
        self.hidden.index_copy_(1, step, state[: len(self.out)])
        token = self._choose(state, step)
        self.out.index_copy_(1, step, token[:, None])
        state.copy_(self.stepper.feed(self._embed(token)))

    def rewind(self) -> None:
        self.stepper.rewind()
        self._state.copy_(self._first)

    @property
    def state(self) -> torch.Tensor:
        """(B, 1, D) of the token that was fed last."""
        return self._state


def recorded(loop: Repeatable, device: torch.device) -> Callable[[], None]:
    """`loop`, rewound, as something that repeats it at less cost; `loop` itself, and a warning, where that fails.

    A recording fails, too, when the host frees memory in the middle of it. So it is tried twice, with memory freed in
    between, and given up for the process when two runs in a row could not have one.
    """
    repeat, reason = loop, None
    for _ in range(2 if _failures.get(device, 0) < GIVEN_UP else 0):
        try:
            repeat, reason = capture(loop, device), None
            break
        except RuntimeError as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if "out of memory" in str(error).lower():
                # Says nothing of recording: a host frees memory and tries again.
                raise (
                    error if isinstance(error, torch.cuda.OutOfMemoryError) else torch.cuda.OutOfMemoryError(reason)
                ) from error
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if reason is not None:
        _failures[device] = _failures.get(device, 0) + 1
        logging.getLogger(__name__).warning(
            "decode steps run one by one on %s: no CUDA graph could be recorded (%s)", device, reason
        )
    elif repeat is not loop:
        _failures.pop(device, None)
    loop.rewind()
    return repeat


def record_once(work: Callable[[], None], device: torch.device) -> Callable[[], None] | None:
    """As `record`, None where that fails: for work that can go on without."""
    if _failures.get(device, 0) >= GIVEN_UP:
        return None
    try:
        return record(work, device)
    except RuntimeError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logging.getLogger(__name__).info("a step of the diffusion is not recorded as a CUDA graph: %s", reason)
        return None


GIVEN_UP = 2
_failures: dict[torch.device, int] = {}  # runs in a row


def capture(loop: Repeatable, device: torch.device) -> Callable[[], None]:
    """`loop` as a CUDA graph. Its first step runs `WARM_UP` times on the way. RuntimeError when it cannot be one."""
    if device.type != "cuda":
        raise RuntimeError(f"{device} has none")
    with torch.cuda.device(device):
        stream, current = _stream(device), torch.cuda.current_stream()
        stream.wait_stream(current)
        try:
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    loop.rewind()
                    loop()
        finally:
            # Also when a host interrupts: what the stream still writes to belongs to the other one.
            current.wait_stream(stream)
        loop.rewind()
        return record(loop, device)


def record(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`work`, which ran before, as a CUDA graph that repeats it on the same memory. RuntimeError if that fails."""
    if device.type != "cuda":
        raise RuntimeError(f"{device} has none")
    with torch.cuda.device(device):
        stream, graph = _stream(device), torch.cuda.CUDAGraph()
        # The stream twice: the outer one is restored even where ending a recording fails. Other threads may allocate.
        with torch.cuda.stream(stream):
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                work()
    return graph.replay


@cache
def _stream(device: torch.device) -> "torch.cuda.Stream":
    """One for all runs: libraries keep workspaces for every stream that they see."""
    return torch.cuda.Stream(device)
