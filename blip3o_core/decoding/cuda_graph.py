"""Decode steps of a fixed shape, captured once as a CUDA graph and then only replayed: on a GPU the time of a step is
that of launching a thousand small kernels, unless they are launched as one.

The whole step is on the device: output matrix, choice of the token, its embedding, the layers. What changes from step
to step (position, what attention may see, results) lies in buffers. A graph lives for one run: capturing costs about
three steps, and no graph is left behind that points at weights which a host moves or frees.
"""

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch

from ..errors import first_line
from .direct import DirectStep
from .interface import Callback, Decoded, Prefilled, report
from .sampling import Chooser

WARM_UP = 2  # runs before the capture, in which libraries set up what they may not set up in one
SYNCHRONIZED = 8  # tokens between waits for the device, so that progress is true and cancelling acts soon
MAX_FAILURES = 2  # runs in a row without a graph, after which a device is not tried again
_failures: dict[torch.device, int] = {}


class Loop(Protocol):
    """One call writes one token, on memory that stays; `rewind` goes back to the end of the prompt."""

    def __call__(self) -> None: ...

    def rewind(self) -> None: ...


def decode_with_graph(prefilled: Prefilled, choose: Chooser, callback: Callback | None) -> Decoded:
    """Engine "graph". Where no graph can be captured the same loop runs without one."""
    loop = FixedLoop(prefilled, choose)
    repeat(captured_or_eager(loop, prefilled.device), loop.ids, callback)
    loop.hidden[:, prefilled.total] = loop.state[: prefilled.batch, 0]
    return Decoded(loop.ids, [prefilled.total] * prefilled.batch, loop.hidden)


def repeat(advance: Callable[[], None], ids: torch.Tensor, callback: Callback | None) -> None:
    """`advance` once for each token of `ids` (B, T), with the callback."""
    for step in range(ids.shape[1]):
        advance()
        if callback is not None and step % SYNCHRONIZED == 0 and ids.device.type == "cuda":
            torch.cuda.current_stream(ids.device).synchronize()
        report(callback, step + 1, ids)


class FixedStep(DirectStep):
    """A step of fixed shapes: it looks at the whole cache, masked, and finds its position in a tensor."""

    def __init__(self, prefilled: Prefilled):
        super().__init__(prefilled.lm, prefilled.cache, prefilled.positions, None)
        keep, cache = prefilled.keep, prefilled.cache
        # Numbers to add, not booleans: those would be turned into numbers in every layer.
        self.bias = cache.data.new_zeros(len(keep), 1, 1, cache.data.shape[-2])
        self.at, self.step = (torch.zeros(1, dtype=torch.long, device=keep.device) for _ in range(2))
        self._prompt_bias = torch.full_like(self.bias, float("-inf"))
        self._prompt_bias[:, 0, 0, : self.begin].masked_fill_(keep, 0)
        self.rewind()

    def rewind(self) -> None:
        """Back to the end of the prompt."""
        self.bias.copy_(self._prompt_bias)
        self.step.zero_()
        self.at.fill_(self.begin)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        """(R, 1, D) embeddings of the next token -> (R, 1, D) after the final norm."""
        self.bias.index_fill_(3, self.at, 0.0)
        self._tables_now = tuple(table.index_select(1, self.step)[:, 0] for table in self.tables)
        state = self(x, self.step)
        self.step.add_(1)
        self.at.add_(1)
        return state

    def _mask(self, step):
        return self.bias

    def _cached(self, store, k, v, step):
        keys, values = store
        keys.index_copy_(2, self.at, k[:, :, None])
        values.index_copy_(2, self.at, v[:, :, None])
        return keys, values

    def _rotated(self, x, step):
        return self.rotate(x, *self._tables_now)


class FixedLoop:
    """One call chooses the token after `state`, stores and feeds it. Only buffers change, so a call can be replayed."""

    def __init__(self, prefilled: Prefilled, choose: Chooser):
        self.stepper, self._choose, self._embed = FixedStep(prefilled), choose, prefilled.embed
        self.ids, self.hidden = prefilled.new_outputs()
        self._first = prefilled.state
        self.state = prefilled.state.clone()  # (R, 1, D) of the token that was fed last

    def __call__(self) -> None:
        step = self.stepper.step
        self.hidden.index_copy_(1, step, self.state[: len(self.ids)])
        uniforms = self._choose.uniforms.index_select(1, step)[:, 0]
        token = self._choose(self.state, uniforms, shortcut=False)
        self.ids.index_copy_(1, step, token[:, None])
        self.state.copy_(self.stepper.feed(self._embed(token)))

    def rewind(self) -> None:
        self.stepper.rewind()
        self.state.copy_(self._first)


def captured_or_eager(loop: Loop, device: torch.device) -> Callable[[], None]:
    """`loop`, rewound, as a CUDA graph that replays it; `loop` itself, and a warning, where that fails.

    A capture fails, too, when the host frees memory in the middle of it. So it is tried twice, with memory freed in
    between, and given up for the process when MAX_FAILURES runs in a row could not have one.
    """
    replay: Callable[[], None] = loop
    reason = None
    for _ in range(2 if _failures.get(device, 0) < MAX_FAILURES else 0):
        try:
            replay, reason = warm_up_and_capture(loop, device), None
            break
        except RuntimeError as error:
            reason = first_line(error)
            if "out of memory" in str(error).lower():
                # Says nothing about capturing: a host frees memory and tries again.
                raise (
                    error if isinstance(error, torch.cuda.OutOfMemoryError) else torch.cuda.OutOfMemoryError(reason)
                ) from error
            if device.type == "cuda":
                torch.cuda.empty_cache()
    if reason is not None:
        _failures[device] = _failures.get(device, 0) + 1
        logging.getLogger(__name__).warning(
            "Decoding on %s is slower than it could be: no CUDA graph could be captured (%s).", device, reason
        )
    elif replay is not loop:
        _failures.pop(device, None)
    loop.rewind()
    return replay


def try_capture(work: Callable[[], None], device: torch.device) -> Callable[[], None] | None:
    """As `capture`, but None where that fails: for work that can go on without a graph."""
    if _failures.get(device, 0) >= MAX_FAILURES:
        return None
    try:
        return capture(work, device)
    except RuntimeError as error:
        log = logging.getLogger(__name__)
        log.info("A diffusion step was not captured as a CUDA graph: %s", first_line(error))
        return None


def warm_up_and_capture(loop: Loop, device: torch.device) -> Callable[[], None]:
    """`loop` as a CUDA graph. Its first step runs WARM_UP times before. RuntimeError when it cannot be captured."""
    if device.type != "cuda":
        raise RuntimeError(f"{device} does not support CUDA graphs")
    with torch.cuda.device(device):
        stream, current = _stream(device), torch.cuda.current_stream()
        with _on_stream:
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
        return capture(loop, device)


def capture(work: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """`work`, which ran before, as a CUDA graph that repeats it on the same memory. RuntimeError if that fails."""
    if device.type != "cuda":
        raise RuntimeError(f"{device} does not support CUDA graphs")
    with torch.cuda.device(device):
        stream, graph = _stream(device), torch.cuda.CUDAGraph()
        # The stream twice: the outer one is restored even where ending a capture fails. Other threads may allocate.
        with _on_stream, torch.cuda.stream(stream):
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                work()
    return graph.replay


# What another thread launches on a stream that is captured would become a part of the graph.
_on_stream = threading.Lock()


@cache
def _stream(device: torch.device) -> "torch.cuda.Stream":
    """One for all runs: libraries keep workspaces for every stream that they see."""
    return torch.cuda.Stream(device)
