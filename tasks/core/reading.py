"""How one checkpoint is read and audited, without doing any I/O.

`read_checkpoint` is a generator: it yields what it wants to fetch, is sent the bytes, and returns its conclusions.
Whoever runs it (a Hub client over the network, a folder reader on a disk, a test with bytes in hand) decides how
bytes are had:

    plan = read_checkpoint(listing, options)
    fetches = next(plan)             # a tuple of Fetch, wanted at once
    fetches = plan.send(answers)     # one Chunk, or one AuditError, for each
    ...                              # until StopIteration carries the Reading
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from tasks.core.configfile import MAX_CONFIG_BYTES, parse_config
from tasks.core.dtypes import decode
from tasks.core.errors import AuditError, BadFile, NotFound, TooLarge, shown
from tasks.core.figures import value_verdicts, with_scale, without_scale
from tasks.core.header import first_read_bytes, header_bytes, parse_header, parse_index
from tasks.core.integrity import check_promised
from tasks.core.kernel import DEAD_TAU
from tasks.core.kinds import Classification, classify
from tasks.core.ranges import ByteRange, check_scale_size, cut, plan_ranges
from tasks.core.records import Chunk, Fetch, Header, Listing, Norm, Reading, ReadNorm, Tensor, TensorSpec
from tasks.core.registry import Registry
from tasks.core.selection import Checkpoint, select_checkpoint, why_none
from tasks.core.streams import unknown_streams, unopened_shard, with_testimony, witnesses
from tasks.core.verdicts import CONFIG_UNREADABLE, SHARD_MISSING

T = TypeVar("T")
Answers: TypeAlias = tuple[Chunk | AuditError, ...]
Plan: TypeAlias = Generator[tuple[Fetch, ...], Answers, T]

MAX_SHARDS = 1_000  # whose headers one model may need; the largest models known have a few hundred shards
MAX_ROUNDS = 4  # a shard's shapes may move the final norm to another shard, but not for ever


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What to read of each model, and when to stop.

    Attributes:
        norms: read the scales of the final norms only, or of all.
        max_model_bytes: what one model may cost; beyond, it is `too_large`.
        dead_tau: threshold of near-dead coordinates, relative to rms(γ).
        config_is_whole: the listing's config is the model's whole config.json, not the Hub's digest of it.
        registry: measured facts on known architectures, or None to go by the general reader alone.
        weights_evidence_bytes: what may be read on top, of matrices, for a norm of which nothing else tells the kind.
    """

    norms: Literal["final", "all"] = "final"
    max_model_bytes: int = 64_000_000
    dead_tau: float = DEAD_TAU
    config_is_whole: bool = False
    registry: Registry | None = None
    weights_evidence_bytes: int = 0


def read_checkpoint(listing: Listing, options: ReadOptions) -> Plan[Reading]:
    """Yield the fetches that one model needs and return what they showed.

    Raises (out of the generator):
        BadFile: a file breaks the format, or contradicts the index.
        TooLarge: the next fetch would pass options.max_model_bytes.
        AuditError: whatever was sent as the answer to a fetch that the audit cannot do without.
    """
    checkpoint = select_checkpoint(listing.files)
    if checkpoint is None:
        return Reading("no_safetensors", why_none(listing.files), None, config=listing.config)
    reader = _Reader(listing, checkpoint, options, config=listing.config)
    yield from reader.open()
    classification = yield from reader.settle()
    classification = yield from reader.ask_writers(classification)
    norms = yield from reader.read_norms(classification)
    return reader.conclude(classification, norms)


def unreadable(error: AuditError, listing: Listing) -> Reading:
    """Return the reading of a model whose audit ended in error."""
    verdict = error.verdict if isinstance(error, BadFile) else None
    integrity = (verdict,) if verdict else ()
    return Reading(error.status, shown(error, 1_000), None, integrity=integrity, config=listing.config)


@dataclass(slots=True)
class _Reader:
    """The state of one model's audit."""

    listing: Listing
    checkpoint: Checkpoint
    options: ReadOptions
    config: Mapping[str, object] | None
    config_is_whole: bool = False
    config_is_unreadable: bool = False
    tensors: dict[str, Tensor] = field(default_factory=dict)
    promised: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by the index, of each file
    headers: dict[str, Header] = field(default_factory=dict)
    pieces: dict[str, dict[ByteRange, bytes]] = field(default_factory=dict)
    weights_sha256: str | None = None
    total_bytes: int | None = None  # of all shards, where only an index has told
    planned_bytes: int = 0

    def where(self, path: str) -> str:
        return f"{shown(self.listing.repo_id)}/{shown(path)}"

    def open(self) -> Plan[None]:
        """Learn the tensors' names: from the index, or from every header."""
        self.config_is_whole = self.options.config_is_whole
        if self.checkpoint.index is None:
            yield from self.read_headers(self.checkpoint.weights)
            return
        [answer] = yield (Fetch(self.checkpoint.index),)
        index = parse_index(_needed(answer).data, self.where(self.checkpoint.index))
        paths = {shard: self.checkpoint.folder + shard for shard in set(index.shards.values())}
        for name, shard in index.shards.items():
            self.tensors[name] = Tensor(name, paths[shard])
            self.promised[paths[shard]].append(name)
        self.total_bytes = index.total_bytes

    def settle(self) -> Plan[Classification]:
        """Classify; then fetch what the answer still hangs on, config and shard headers, until it stands."""
        for _ in range(MAX_ROUNDS):
            found = classify(tuple(self.tensors.values()), self.config, self.options.registry)
            if found.needs_config and not self.config_is_whole:
                yield from self.read_config()
                continue
            files = {norm.file for norm in self.wanted(found.norms) if norm.file}
            missing = sorted(files - self.headers.keys())
            if not missing:
                break
            yield from self.read_headers(missing)
        return found

    def read_config(self) -> Plan[None]:
        """Read config.json, if there is one; it replaces the listing's digest, unless it cannot be used."""
        self.config_is_whole = True
        [answer] = yield (Fetch(self.checkpoint.config, limit_bytes=MAX_CONFIG_BYTES),)
        if not isinstance(answer, NotFound):
            usable = None if isinstance(answer, TooLarge | BadFile) else parse_config(_needed(answer).data)
            self.config, self.config_is_unreadable = (self.config, True) if usable is None else (usable, False)

    def read_headers(self, paths: Sequence[str]) -> Plan[None]:
        """Read and validate the headers of these files, side by side."""
        if len(paths) > MAX_SHARDS:
            raise TooLarge(f"{self.where(paths[0])}: one of {len(paths):,} shards to open; at most {MAX_SHARDS:,} are")
        first = tuple(Fetch(path, 0, first_read_bytes(len(self.promised[path]))) for path in paths)
        answers = yield self.priced(first)
        chunks = {path: self.shard(path, answer) for path, answer in zip(paths, answers, strict=True)}
        rest = tuple(
            Fetch(path, len(chunk.data), stop)
            for path, chunk in chunks.items()
            if (stop := header_bytes(chunk.data, chunk.file_bytes, self.where(path))) > len(chunk.data)
        )
        tails = dict(zip((fetch.path for fetch in rest), (yield self.priced(rest)) if rest else (), strict=True))
        for path, chunk in chunks.items():
            head = chunk.data + (_needed(tails[path]).data if path in tails else b"")
            self.headers[path] = parse_header(head, chunk.file_bytes, self.where(path))
            self.pieces[path] = {ByteRange(0, len(head)): head}
            self.weights_sha256 = chunk.sha256 if len(self.checkpoint.weights) == 1 else None
            self.adopt(path)

    def shard(self, path: str, answer: Chunk | AuditError) -> Chunk:
        """Return a weights file's bytes; that an index names one which is not there is a fault of the checkpoint."""
        if isinstance(answer, NotFound) and self.checkpoint.index is not None:
            raise BadFile(f"{self.where(path)}: the index names this shard, it is not there", SHARD_MISSING) from answer
        return _needed(answer)

    def adopt(self, path: str) -> None:
        """Take a header's tensors over, and hold them against what the index promised."""
        found = {spec.name: Tensor(spec.name, path, spec.dtype, spec.shape) for spec in self.headers[path].tensors}
        check_promised(self.promised[path], found, self.where(path))
        self.tensors.update(found)

    def ask_writers(self, found: Classification) -> Plan[Classification]:
        """On request, read the smallest matrices that write to each stream whose norms are unknown, and hear them."""
        left_bytes = self.options.weights_evidence_bytes
        for stream in unknown_streams(found.norms) if left_bytes else ():
            if shard := unopened_shard(tuple(self.tensors.values()), stream):
                yield from self.read_headers([shard])
            asked = witnesses(tuple(self.tensors.values()), stream, left_bytes)
            left_bytes -= asked.size_bytes
            specs = self.specs(writer.tensor.name for writer in asked.writers)
            yield from self.read_ranges(specs.values())
            values = (self.value(*specs[writer.tensor.name])[1] for writer in asked.writers)
            found = with_testimony(found, stream, asked, values)
        return found

    def read_norms(self, found: Classification) -> Plan[tuple[ReadNorm, ...]]:
        """Read the scales and biases that are wanted, and compute their figures; the other norms go along unread."""
        wanted = self.wanted(found.norms)
        specs = self.specs(name for norm in wanted for name in (norm.scale_tensor, norm.bias_tensor) if name)
        for path, spec in specs.values():
            check_scale_size(spec, self.where(path))
        yield from self.read_ranges(specs.values())
        values = {name: self.value(path, spec) for name, (path, spec) in specs.items()}
        chosen = set(map(id, wanted))
        return tuple(self.figures(norm, values) if id(norm) in chosen else ReadNorm(norm) for norm in found.norms)

    def wanted(self, norms: Iterable[Norm]) -> list[Norm]:
        return [norm for norm in norms if norm.is_final or self.options.norms == "all"]

    def specs(self, names: Iterable[str]) -> dict[str, tuple[str, TensorSpec]]:
        """Return {name: (file, spec)} of these tensors."""
        by_file: dict[str, set[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, set()).add(name)
        return {
            spec.name: (path, spec)
            for path, wanted in by_file.items()
            for spec in self.headers[path].tensors
            if spec.name in wanted
        }

    def read_ranges(self, specs: Iterable[tuple[str, TensorSpec]]) -> Plan[None]:
        """Fetch the bytes of these tensors that no piece holds yet, all at once."""
        missing: dict[str, list[TensorSpec]] = {}
        for path, spec in specs:
            if cut(spec, self.pieces[path]) is None:
                missing.setdefault(path, []).append(spec)
        ranges = [(path, piece) for path, group in missing.items() for piece in plan_ranges(group)]
        parts = [(path, piece, part) for path, piece in ranges for part in piece.parts()]
        if not parts:
            return
        answers = yield self.priced(tuple(Fetch(path, part.start, part.stop) for path, _, part in parts))
        for (path, piece, _), answer in zip(parts, answers, strict=True):
            held = self.pieces[path]
            held[piece] = held.get(piece, b"") + _needed(answer).data

    def value(self, path: str, spec: TensorSpec) -> tuple[bytes, np.ndarray]:
        data = cut(spec, self.pieces[path])
        if data is None:
            raise BadFile(f"{self.where(path)}: {shown(spec.name)} could not be read whole")
        flat = replace(spec, shape=(math.prod(spec.shape),))  # NumPy cannot hold every shape, nor 65 dimensions
        return data, decode(flat, data, self.where(path))

    def figures(self, norm: Norm, values: Mapping[str, tuple[bytes, np.ndarray]]) -> ReadNorm:
        """Return the norm with its figures; the vectors and the kernel for final norms only."""
        if norm.scale_tensor is None:
            return without_scale(norm, self.options.dead_tau)
        stored, weight = values[norm.scale_tensor]
        beta = values[norm.bias_tensor][1] if norm.bias_tensor else None
        return with_scale(norm, weight, beta, hashlib.sha256(stored).hexdigest(), self.options.dead_tau)

    def conclude(self, found: Classification, norms: tuple[ReadNorm, ...]) -> Reading:
        has_norms = any(read.norm.kind in ("layernorm", "rmsnorm", "unknown") for read in norms)
        main = next((read.norm for read in norms if read.norm.is_main), None)
        return Reading(
            status="ok" if has_norms else "no_norms",
            reason=None if main else self._why_no_final(found),
            norm_kind=main.kind if main else found.norm_kind,
            norms=norms,
            tensors=tuple(self.tensors.values()),
            integrity=tuple(dict.fromkeys((*self.file_verdicts(), *found.integrity, *value_verdicts(norms)))),
            file_count=len({tensor.file for tensor in self.tensors.values()}),
            checkpoint_bytes=self._checkpoint_bytes(),
            config=self.config,
            weights_sha256=self.weights_sha256,
        )

    def file_verdicts(self) -> Iterable[str]:
        """Yield the verdicts on a config that is of no use, and on an index that names shards which are not there."""
        if self.config_is_unreadable:
            yield CONFIG_UNREADABLE
        if not {tensor.file for tensor in self.tensors.values()} <= {file.path for file in self.listing.files}:
            yield SHARD_MISSING

    def priced(self, fetches: tuple[Fetch, ...]) -> tuple[Fetch, ...]:
        """Return fetches, unless they would take this model past its byte limit."""
        self.planned_bytes += sum(fetch.stop - fetch.start for fetch in fetches if fetch.stop is not None)
        limit_bytes = self.options.max_model_bytes + self.options.weights_evidence_bytes
        if self.planned_bytes > limit_bytes:
            wanted = f"{self.planned_bytes:,} bytes would have to be read"
            raise TooLarge(f"{shown(self.listing.repo_id)}: {wanted}, the limit for one model is {limit_bytes:,}")
        return fetches

    def _checkpoint_bytes(self) -> int | None:
        files = {tensor.file for tensor in self.tensors.values()}
        if files <= self.headers.keys():
            return sum(header.file_bytes for header in self.headers.values())
        return self.checkpoint.size_bytes or self.total_bytes

    def _why_no_final(self, found: Classification) -> str:
        if found.norms:
            return f"{len(found.norms)} norms, of which none ends a trunk"
        return f"no norm among {len(self.tensors):,} tensors"


def _needed(answer: Chunk | AuditError) -> Chunk:
    if isinstance(answer, AuditError):
        raise answer
    return answer
