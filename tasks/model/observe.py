"""What is kept of a forward pass: triangular factors and sums, never the tokens themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tasks.core.kernel import kernel_direction
from tasks.core.probing import DirectionShare, MeanShare
from tasks.core.residual import StreamSigma
from tasks.core.spectrum import FOLD_ROWS_PER_COLUMN
from tasks.model.faults import NoProbe, NotFinite
from tasks.model.invariance import INVARIANCE_TOKENS
from tasks.model.norm import FinalNorm
from tasks.model.spectrum import CentredQR, sigma_min_max

EVALUATED_ENTRIES = 1 << 18  # of rows that the norm is evaluated on at once: 2 MB in float64, some ten times
EMBEDDINGS = "embeddings"  # what X_0 is called


class Observer:
    """Takes in the residual streams and the final norm's input, row by row, up to a number of tokens.

    Args:
        width: d.
        tokens: N; what comes beyond is passed over.
        streams: names of X_0 to X_L; without any, no streams are kept.
        norm_of: makes the final norm ready, once its module has values.
    """

    def __init__(self, width: int, tokens: int, streams: tuple[str, ...], norm_of: Callable[[], FinalNorm]) -> None:
        self.width = width
        self.names = streams
        self.seconds = 0.0
        self.why_no_streams: str | None = None if streams else "no list of blocks that the norm follows"
        self.tokens = tokens
        self._norm_of = norm_of
        self._norm: FinalNorm | None = None
        self._streams = [self._accumulator() for _ in streams]
        self._finished: dict[int, tuple[StreamSigma, int]] = {}
        self._count = 0
        self._outputs = self._accumulator() if tokens > width else None  # else its spectrum gives no figure
        self._share = MeanShare()
        self._direction: DirectionShare | None = None
        self._sample: list[Tensor] = []

    @property
    def count(self) -> int:
        """Tokens that the norm has been given so far."""
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether N tokens have been taken in."""
        return self.count >= self.tokens

    @property
    def norm(self) -> FinalNorm:
        """The final norm, ready to be evaluated; its module must have values when this is first asked for."""
        if self._norm is None:
            self._norm = self._norm_of()
        return self._norm

    @property
    def outputs_factor(self) -> Tensor:
        """R of y in float64, shape (d, d); (0, d) where N ≤ d."""
        return torch.empty((0, self.width)) if self._outputs is None else self._outputs.factor

    @property
    def mean_share(self) -> float | None:
        """As maths.md, section 4 has it."""
        return self._share.value

    @property
    def lambda_u_rel_float32(self) -> float | None:
        """Of y in float32."""
        return self._direction.value if self._direction else None

    @property
    def sample(self) -> Tensor:
        """The first outputs in float32, shape (n, d), n at most INVARIANCE_TOKENS."""
        return torch.cat(self._sample)

    def stream(self, index: int, value: Tensor) -> None:
        """Take in X_index of some tokens, shape (…, d)."""
        if self.why_no_streams is None:
            if value.shape[-1] != self.width:
                self.give_up_streams(f"the stream is {value.shape[-1]} wide at {self.names[index]}, not {self.width}")
                return
            with self._timed(value):
                rows = value.reshape(-1, self.width)[: self.tokens - self._streams[index].count]
                _require_finite(rows, self.names[index])
                self._streams[index].add(rows)

    def final(self, value: Tensor) -> None:
        """Take in the final norm's input of some tokens, shape (…, d)."""
        if value.shape[-1] != self.width:
            raise NoProbe("unsupported", f"the final norm is {self.width} wide and is given {tuple(value.shape)}")
        with self._timed(value):
            rows = value.reshape(-1, self.width)[: self.tokens - self.count]
            _require_finite(rows, "the final norm's input")
            if self.why_no_streams is None:
                self._streams[-1].add(rows)
            for some in rows.split(max(1, EVALUATED_ENTRIES // self.width)):
                self._evaluate(some)

    def give_up_streams(self, why: str) -> None:
        """Keep no streams from here on."""
        self.why_no_streams, self._streams, self._finished = why, [], {}

    def finish(self, index: int) -> None:
        """Let a stream go that is seen whole: its singular values are kept, and not its factor."""
        if self.why_no_streams is None and index not in self._finished:
            stream = self._streams[index]
            with self._timed(None):
                smallest, largest = sigma_min_max(stream.factor) if stream.count else (0.0, 0.0)
                sigma = StreamSigma(self.names[index], smallest, largest, stream.second_moment_rms)
            self._finished[index] = (sigma, stream.count)
            self._streams[index] = self._accumulator()

    def sigmas(self) -> list[StreamSigma]:
        """Return the extreme singular values of each stream; none where the streams were given up."""
        for index in range(len(self._streams)):
            self.finish(index)
        if any(count != self.count for _, count in self._finished.values()):
            self.give_up_streams("the blocks see other tokens than the norm")
        return [self._finished[index][0] for index in range(len(self._streams))]

    def _evaluate(self, rows: Tensor) -> None:
        norm = self.norm
        y = norm.outputs(rows)
        _require_finite(y, "the final norm's output")
        self._count += len(y)
        if self._outputs is not None:
            self._outputs.add(y)
        self._share.add(norm.normalised(rows))
        narrow = norm.outputs_float32(rows)
        if self._direction is None:
            u = torch.from_numpy(kernel_direction(norm.gamma.numpy()))
            self._direction = DirectionShare(u.to(rows.device))
        self._direction.add(narrow.double())
        if missing := INVARIANCE_TOKENS - sum(map(len, self._sample)):
            self._sample.append(narrow[:missing].clone())

    def _accumulator(self) -> CentredQR:
        return CentredQR(self.width, min(self.tokens, FOLD_ROWS_PER_COLUMN * self.width))

    @contextmanager
    def _timed(self, value: Tensor | None) -> Iterator[None]:
        """Count the time as linear algebra."""
        _wait_for(value)
        started = time.perf_counter()
        yield
        _wait_for(value)
        self.seconds += time.perf_counter() - started


def first_tensor(args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor:
    """Return the first floating-point tensor among a call's arguments: the hidden state."""
    named = kwargs.get("hidden_states")
    values = (*args, named, *kwargs.values())
    found = next((v for v in values if isinstance(v, Tensor) and v.is_floating_point()), None)
    if found is None:
        raise NoProbe("unsupported", "a block or the final norm is called without a hidden state")
    return found


@contextmanager
def tapped(
    modules: dict[str, int | None], model: nn.Module, on_call: Callable[[int | None, Tensor], None]
) -> Iterator[None]:
    """Call back with the hidden state that each of some modules is given.

    Args:
        modules: path: what the callback is told; None for the final norm.
        model: that holds them.
        on_call: told which module, and its input.
    """

    def hook(index: int | None) -> Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]:
        return lambda module, args, kwargs: on_call(index, first_tensor(args, kwargs).detach())

    handles = [
        model.get_submodule(path).register_forward_pre_hook(hook(index), with_kwargs=True)
        for path, index in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_finite(rows: Tensor, where: str) -> None:
    if not bool(torch.isfinite(rows).all()):
        raise NotFinite(f"NaN or Inf at {where}")


def _wait_for(value: Tensor | None) -> None:
    if value is not None and value.device.type == "cuda":
        torch.cuda.synchronize(value.device)
