"""The weights files of one checkpoint, as far as they have been read: their tensors, their headers, bytes of them."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import orjson
from numpy.typing import NDArray

from tasks.core.claims import ClaimedShard, parse_claims
from tasks.core.dtypes import decode
from tasks.core.errors import AuditError, BadFile, Disabled, Gated, NotFound, TooLarge, shown
from tasks.core.guesses import Guess, Likeness, affordable, by_claim, by_index
from tasks.core.header import header_bytes, parse_header, parse_index
from tasks.core.integrity import check_promised
from tasks.core.memory import MAX_CLAIM_BYTES, MAX_REMEMBERED_BYTES, MAX_REMEMBERED_TENSORS, Memory, Opened, family_of
from tasks.core.plan import Plan, needed
from tasks.core.ranges import Pieces, plan_ranges
from tasks.core.records import Chunk, Fetch, Listing, Tensor, TensorSpec
from tasks.core.selection import Checkpoint
from tasks.core.verdicts import SHARD_MISSING

MAX_SHARDS = 1_000  # whose headers one model may need; the largest models known have a few hundred shards


class ClaimsRefuted(Exception):
    """A shard's own header says otherwise than the Hub claimed; the index has to be read after all."""


@dataclass(slots=True)
class Files:
    """The weights files of one checkpoint.

    Attributes:
        listing: of the repo.
        checkpoint: which files they are.
        limit_bytes: what may be read of them in all; guesses are not counted.
        norms: whose scales will be wanted ("final" or "all").
        memory: of the run.
        known: sha256s of files that need not be read.
        tensors: all tensors by name; of unopened shards as the index names or the Hub claims them.
        paths: of the files that hold them.
        opened: headers of the files that were opened, by path.
        weights_sha256: of the one weights file, where the server named it.
        is_known: that hash is among the known ones, and so nothing of the file was read.
        total_bytes: of all shards, where an index has told.
        made_of: hashes of all that the tensors are known from.
    """

    listing: Listing
    checkpoint: Checkpoint
    limit_bytes: int
    norms: str
    memory: Memory
    known: Container[str] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    opened: dict[str, Opened] = field(default_factory=dict)
    weights_sha256: str | None = None
    is_known: bool = False
    total_bytes: int | None = None
    made_of: list[bytes] = field(default_factory=list)
    _claims: dict[str, ClaimedShard] = field(default_factory=dict)
    _promised: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by the index, of each file
    _pieces: dict[str, Pieces] = field(default_factory=lambda: defaultdict(Pieces))
    _planned_bytes: int = 0

    def where(self, path: str) -> str:
        """Return repo and file, for messages."""
        return f"{shown(self.listing.repo_id)}/{shown(path)}"

    def open(self, *, by_claims: bool = True) -> Plan[None]:
        """Learn the tensors' names: from what the Hub claims, from the index, or from every header."""
        if self.checkpoint.index is None:
            yield from self.read_headers(dict.fromkeys(self.checkpoint.weights, ()))
        elif not (by_claims and (yield from self._open_claims(self.checkpoint.index))):
            yield from self._open_index(self.checkpoint.index)

    def _open_claims(self, index: str) -> Plan[bool]:
        """Learn the tensors from the Hub's own words; return whether it had any that make sense."""
        [answer] = yield (Fetch(index, of="claims"),)
        if isinstance(answer, Gated | Disabled):
            raise answer  # the index is closed just as well
        if isinstance(answer, AuditError):
            return False
        try:
            claims = self._parsed_claims(answer.data, index)
        except BadFile:
            return False
        found = {self.checkpoint.folder + name: shard for name, shard in claims.items()}
        if not found.keys() >= set(self.checkpoint.weights):
            return False  # it says nothing of a shard that is there: the final norm may be in that one
        self._claims = found
        for path, shard in self._claims.items():
            for spec in shard.tensors:
                self.tensors[spec.name] = Tensor(spec.name, path, spec.dtype, spec.shape)
        self.paths.update(path for path, shard in self._claims.items() if shard.tensors)
        self.total_bytes = sum(shard.tensors[-1].stop_byte for shard in claims.values() if shard.tensors)
        return True

    def _parsed_claims(self, data: bytes, index: str) -> Mapping[str, ClaimedShard]:
        digest = hashlib.sha256(data).digest()
        self.made_of.append(digest)
        claims = self.memory.claims.get(digest)
        if claims is None:
            claims = parse_claims(data, self.where(index))
            if len(data) <= MAX_CLAIM_BYTES:
                self.memory.claims.put(digest, claims)
        return claims

    def _open_index(self, path: str) -> Plan[None]:
        [answer] = yield (Fetch(path),)
        data = needed(answer).data
        index = parse_index(data, self.where(path))
        paths = {shard: self.checkpoint.folder + shard for shard in set(index.shards.values())}
        for name, shard in index.shards.items():
            self.tensors[name] = Tensor(name, paths[shard])
            self._promised[paths[shard]].append(name)
        self.paths.update(paths.values())
        self.total_bytes = index.total_bytes
        self.made_of.append(hashlib.sha256(data).digest())

    def read_headers(self, wanted: Mapping[str, Collection[str]]) -> Plan[None]:
        """Read and validate headers, side by side, and what can be guessed along with them.

        Args:
            wanted: {file: names of tensors that will be wanted of it, as far as they are known}.
        """
        if len(wanted) > MAX_SHARDS:
            first = next(iter(wanted))
            raise TooLarge(f"{self.where(first)}: one of {len(wanted):,} shards to open; at most {MAX_SHARDS:,} are")
        guesses = {path: self._guess(path, names) for path, names in wanted.items()}
        heads = tuple(Fetch(path, 0, guess.head_bytes, unless=self._unless) for path, guess in guesses.items())
        guessed = (fetch for path, guess in guesses.items() for fetch in guess.fetches(path))
        tries = affordable(tuple(replace(fetch, unless=self._unless) for fetch in guessed))
        answers = yield (*self._priced(heads), *tries)
        chunks = {path: self._shard(path, answer) for path, answer in zip(wanted, answers, strict=False)}
        if any(chunk.sha256 in self._unless for chunk in chunks.values()):
            [self.weights_sha256], self.is_known = (chunk.sha256 for chunk in chunks.values()), True
            return
        self._keep(tries, answers[len(heads) :])
        yield from self._complete(chunks)

    def _complete(self, chunks: Mapping[str, Chunk]) -> Plan[None]:
        """Read what first reads lack of the headers, and open the files."""
        rest = tuple(
            Fetch(path, len(chunk.data), stop)
            for path, chunk in chunks.items()
            if (stop := header_bytes(chunk.data, chunk.file_bytes, self.where(path))) > len(chunk.data)
        )
        tails = dict(zip((fetch.path for fetch in rest), (yield self._priced(rest)) if rest else (), strict=True))
        for path, chunk in chunks.items():
            head = chunk.data + (needed(tails[path]).data if path in tails else b"")
            self._pieces[path].add(0, head)
            self.weights_sha256 = chunk.sha256 if len(self.checkpoint.weights) == 1 else None
            self._adopt(path, self._opened(path, head, chunk.file_bytes))

    def _opened(self, path: str, head: bytes, file_bytes: int) -> Opened:
        """Return a parsed header, from memory where the same one was parsed before."""
        stop = header_bytes(head, file_bytes, self.where(path))
        digest = hashlib.sha256(head[:stop]).digest()
        self.made_of += (path.encode(errors="replace"), digest)
        opened = self.memory.headers.get((digest, path))
        if opened is not None and opened.header.file_bytes == file_bytes:
            return opened
        header = parse_header(head, file_bytes, self.where(path))
        tensors = {spec.name: Tensor(spec.name, path, spec.dtype, spec.shape) for spec in header.tensors}
        opened = Opened(header, {spec.name: spec for spec in header.tensors}, tensors)
        if stop <= MAX_REMEMBERED_BYTES:
            self.memory.headers.put((digest, path), opened)
        return opened

    def _adopt(self, path: str, opened: Opened) -> None:
        """Take a header's tensors over, and hold them against what the index or the Hub promised."""
        claim = self._claims.get(path)
        if claim is not None and not claim.is_borne_out(opened.tensors):
            raise ClaimsRefuted
        check_promised(self._promised.get(path, ()), opened.tensors, self.where(path))
        self.opened[path] = opened
        self.tensors.update(opened.tensors)
        if opened.tensors:
            self.paths.add(path)

    def _shard(self, path: str, answer: Chunk | AuditError) -> Chunk:
        """Return a weights file's bytes; that an index names one which is not there is a fault of the checkpoint."""
        if isinstance(answer, NotFound) and path in self._claims:
            raise ClaimsRefuted
        if isinstance(answer, NotFound) and self.checkpoint.index is not None:
            raise BadFile(f"{self.where(path)}: the index names this shard, it is not there", SHARD_MISSING) from answer
        return needed(answer)

    def specs(self, names: Iterable[str]) -> dict[str, tuple[str, TensorSpec]]:
        """Return {name: (file, spec)} of these tensors."""
        return {
            name: (path, self.opened[path].specs[name])
            for path, wanted in self.by_file(names).items()
            for name in sorted(wanted)
        }

    def by_file(self, names: Iterable[str]) -> dict[str, set[str]]:
        """Return the names by the file that holds them."""
        found: dict[str, set[str]] = {}
        for name in names:
            found.setdefault(self.tensors[name].file, set()).add(name)
        return found

    def read_ranges(self, specs: Iterable[tuple[str, TensorSpec]]) -> Plan[None]:
        """Fetch the bytes of these tensors that no piece holds yet, all at once."""
        missing: dict[str, list[TensorSpec]] = {}
        for path, spec in specs:
            if self._pieces[path].cut(spec) is None:
                missing.setdefault(path, []).append(spec)
        ranges = [(path, piece) for path, group in missing.items() for piece in plan_ranges(group)]
        fetches = tuple(Fetch(path, part.start, part.stop) for path, piece in ranges for part in piece.parts())
        if not fetches:
            return
        answers = iter((yield self._priced(fetches)))
        for path, piece in ranges:
            self._pieces[path].add(piece.start, b"".join(needed(next(answers)).data for _ in piece.parts()))

    def learn(self, specs: Iterable[tuple[str, TensorSpec]]) -> None:
        """Remember where these tensors lay, for files of the same sort."""
        wanted: dict[str, list[TensorSpec]] = {}
        for path, spec in specs:
            wanted.setdefault(path, []).append(spec)
        for path, group in wanted.items():
            if likeness := self._likeness(path):
                likeness.learn(self.memory, self.opened[path].header, group)

    def value(self, path: str, spec: TensorSpec) -> tuple[bytes, NDArray[np.float64]]:
        """Return a tensor's bytes, and its values, shape (elements,)."""
        data = self._pieces[path].cut(spec)
        if data is None:
            raise BadFile(f"{self.where(path)}: {shown(spec.name)} could not be read whole")
        flat = replace(spec, shape=(math.prod(spec.shape),))  # NumPy cannot hold every shape, nor 65 dimensions
        return data, decode(flat, data, self.where(path))

    @property
    def size_bytes(self) -> int | None:
        """What all files have together; of their tensors alone where only an index, or a claim, tells of some."""
        if self.paths <= self.opened.keys():
            return sum(opened.header.file_bytes for opened in self.opened.values())
        return self.checkpoint.size_bytes or self.total_bytes

    def made_of_all(self, config: Mapping[str, object] | None) -> bytes | None:
        """Return a hash of all that the tensors and this config are known from; None where nothing is remembered."""
        if len(self.tensors) > MAX_REMEMBERED_TENSORS or not self.made_of:
            return None
        try:
            told = orjson.dumps(config)
        except orjson.JSONEncodeError:
            return None
        return hashlib.sha256(b"".join((*self.made_of, told))).digest()

    @property
    def _unless(self) -> Container[str]:
        """Files that need not be read; shards are read in any case, since other shards may differ."""
        return self.known if len(self.checkpoint.weights) == 1 and self.checkpoint.index is None else ()

    def _guess(self, path: str, names: Collection[str]) -> Guess:
        if path in self._claims:
            return by_claim(self._claims[path], names)
        promised = self._promised.get(path)
        guess = by_index(promised, names) if promised else Guess()
        likeness = self._likeness(path)
        return likeness.recall(self.memory, guess) if likeness else guess

    def _likeness(self, path: str) -> Likeness | None:
        family = family_of(self.listing)
        return Likeness(family, self.listing.parameter_count, path, self.norms) if family else None

    def _keep(self, fetches: Sequence[Fetch], answers: Sequence[Chunk | AuditError]) -> None:
        """Keep what guesses brought."""
        for fetch, answer in zip(fetches, answers, strict=True):
            if isinstance(answer, Chunk) and answer.data:
                start = fetch.start if fetch.start >= 0 else answer.file_bytes - len(answer.data)
                self._pieces[fetch.path].add(start, answer.data)

    def _priced(self, fetches: tuple[Fetch, ...]) -> tuple[Fetch, ...]:
        """Return fetches, unless they would take this model past its byte limit."""
        self._planned_bytes += sum(fetch.stop - fetch.start for fetch in fetches if fetch.stop is not None)
        if self._planned_bytes > self.limit_bytes:
            wanted = f"{self._planned_bytes:,} bytes would have to be read"
            raise TooLarge(f"{shown(self.listing.repo_id)}: {wanted}, the limit for one model is {self.limit_bytes:,}")
        return fetches
