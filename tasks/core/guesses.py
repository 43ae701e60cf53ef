"""Where in a file to look before its header is known: by what is claimed of it, by its index, by files seen before.

A guess costs a range that may be in vain, never a wrong answer: bytes are taken for a tensor's only where the header
puts it. What is in vain is bounded, and what turned out otherwise is remembered as it turned out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tasks.core.claims import SLACK_BYTES, ClaimedShard
from tasks.core.header import FIRST_READ_BYTES, first_read_bytes
from tasks.core.memory import Family, Habit, Memory, Shape
from tasks.core.ranges import ByteRange, plan_ranges
from tasks.core.records import Fetch, Header, TensorSpec

MAX_GUESS_BYTES = 4_194_304  # of one model, in vain at worst; all 161 scales of a 70B model in 16 bits take 2.6 MB
MAX_RANGES = 256  # of one file that are remembered; a model of 120 layers has 241 norms
TAIL_BYTES = 32_768  # a scale of 16,384 coordinates in 16 bits: the widest stream known
MAX_HEAD_BYTES = 262_144  # of a first read: 2,000 tensors; a second read costs less than much more in vain
METADATA_SLACK_BYTES = 512  # by which headers of one layout differ, in their metadata


@dataclass(frozen=True, slots=True)
class Guess:
    """What to ask of a file at first.

    Attributes:
        head_bytes: of its start, for the header.
        ranges: further places at which wanted tensors are thought to lie.
        tail_bytes: of its end, for the same.
    """

    head_bytes: int = FIRST_READ_BYTES
    ranges: tuple[ByteRange, ...] = ()
    tail_bytes: int = 0

    def fetches(self, path: str) -> tuple[Fetch, ...]:
        """Return as fetches what is asked besides the head."""
        beyond = (piece for piece in self.ranges if piece.stop > self.head_bytes)
        ranges = tuple(Fetch(path, piece.start, piece.stop, is_guess=True) for piece in beyond)
        return (*ranges, Fetch(path, -self.tail_bytes, is_guess=True)) if self.tail_bytes else ranges


def affordable(fetches: tuple[Fetch, ...]) -> tuple[Fetch, ...]:
    """Return the guesses of one model, or none where they might take too much in vain."""
    wanted_bytes = sum(-fetch.start if fetch.stop is None else fetch.stop - fetch.start for fetch in fetches)
    return fetches if wanted_bytes <= MAX_GUESS_BYTES else ()


def by_claim(shard: ClaimedShard, wanted: Iterable[str]) -> Guess:
    """Return what to ask of a shard whose header the Hub has told."""
    return Guess(shard.header_bytes + SLACK_BYTES, shard.ranges(wanted))


def by_index(promised: Collection[str], wanted: Collection[str]) -> Guess:
    """Return what to ask of a shard by the names in it; writers order a file's tensors by name."""
    last = sorted(promised)[len(promised) - len(wanted) :]
    is_last = bool(wanted) and set(last) == set(wanted)
    return Guess(first_read_bytes(len(promised)), tail_bytes=TAIL_BYTES if is_last else 0)


@dataclass(frozen=True, slots=True)
class Likeness:
    """What a file has in common with those that are probably laid out like it.

    Attributes:
        family: of the model.
        parameter_count: of the model; None: the listing does not tell.
        path: of the file in the repo.
        norms: whose scales are wanted ("final" or "all").
    """

    family: Family
    parameter_count: int | None
    path: str
    norms: str

    def recall(self, memory: Memory, otherwise: Guess) -> Guess:
        """Return what to ask by what is remembered: the places of a model of this size, or the habit of its family."""
        shape = memory.shapes.get(self._shape) if self._shape else None
        if shape:
            return Guess(shape.head_bytes + METADATA_SLACK_BYTES, shape.ranges)
        habit = memory.habits.get(self._habit)
        if habit is None:
            return otherwise
        head_bytes = otherwise.head_bytes
        if head_bytes == FIRST_READ_BYTES:  # no index has told
            head_bytes = min(max(head_bytes, habit.header_bytes * 5 // 4), MAX_HEAD_BYTES)
        return Guess(head_bytes, tail_bytes=TAIL_BYTES if habit.ends_with_wanted else otherwise.tail_bytes)

    def learn(self, memory: Memory, header: Header, wanted: Sequence[TensorSpec]) -> None:
        """Remember how a file turned out to be laid out."""
        near = [spec.stop_byte for spec in wanted if spec.stop_byte <= FIRST_READ_BYTES]
        far = [spec for spec in wanted if spec.stop_byte > FIRST_READ_BYTES]
        if self._shape:
            head_bytes = max(header.header_bytes, *near) if near else header.header_bytes
            memory.shapes.put(self._shape, Shape(head_bytes, plan_ranges(far)[:MAX_RANGES]))
        at_end = bool(far) and header.file_bytes - min(spec.start_byte for spec in far) <= TAIL_BYTES
        before = memory.habits.get(self._habit)
        longest = max(header.header_bytes, before.header_bytes if before else 0)
        memory.habits.put(self._habit, Habit(longest, at_end))

    @property
    def _shape(self) -> tuple[Family, int, str, str] | None:
        return None if self.parameter_count is None else (self.family, self.parameter_count, self.path, self.norms)

    @property
    def _habit(self) -> tuple[Family, str]:
        return self.family, self.norms
