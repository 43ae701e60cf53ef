"""How one checkpoint is read and audited, without doing any I/O: a plan (plan.py) from a listing to a `Reading`."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tasks.core.configfile import MAX_CONFIG_BYTES, parse_config
from tasks.core.errors import AuditError, BadFile, NotFound, TooLarge, shown
from tasks.core.figures import Vector, value_verdicts, with_scale, without_scale
from tasks.core.files import MAX_SHARDS, ClaimsRefuted, Files
from tasks.core.kernel import DEAD_TAU
from tasks.core.kinds import Classification, classify
from tasks.core.memory import Memory
from tasks.core.plan import Plan, needed
from tasks.core.ranges import check_scale_size
from tasks.core.records import Fetch, Listing, Norm, Reading, ReadNorm
from tasks.core.registry import Registry
from tasks.core.selection import Checkpoint, select_checkpoint, why_none
from tasks.core.sharing import Kept, Twin, conclude_shared
from tasks.core.streams import unknown_streams, unopened_shard, with_testimony, witnesses
from tasks.core.verdicts import CONFIG_UNREADABLE, SHARD_MISSING

__all__ = ["MAX_SHARDS", "Plan", "ReadOptions", "read_checkpoint", "recognise_or_read", "share", "unreadable"]

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


def read_checkpoint(listing: Listing, options: ReadOptions, memory: Memory | None = None) -> Plan[Reading]:
    """Yield the fetches that one model needs and return what they showed.

    Args:
        listing: of the model.
        options: what to read.
        memory: what the run remembers of other models; it saves round trips and bytes, and changes no answer.

    Raises (out of the generator):
        BadFile: a file breaks the format, or contradicts the index.
        TooLarge: the next fetch would pass options.max_model_bytes.
        AuditError: whatever was sent as the answer to a fetch that the audit cannot do without.
    """
    found = yield from recognise_or_read(listing, options, memory or Memory(), ())
    assert isinstance(found, Reading)  # nothing was known that could be recognised
    return found


def recognise_or_read(
    listing: Listing, options: ReadOptions, memory: Memory, known: Container[str]
) -> Plan[Reading | Twin]:
    """Do as `read_checkpoint` does, unless the weights are among those known by their sha256; then name them."""
    checkpoint = select_checkpoint(listing.files)
    if checkpoint is None:
        return Reading("no_safetensors", why_none(listing.files), None, config=listing.config)
    if checkpoint.sha256 is not None and checkpoint.sha256 in known:
        return Twin(checkpoint.sha256)
    try:
        return (yield from _reader(listing, checkpoint, options, memory, known).read())
    except ClaimsRefuted:
        return (yield from _reader(listing, checkpoint, options, memory, known).read(by_claims=False))


def share(listing: Listing, kept: Kept, options: ReadOptions) -> Plan[Reading | None]:
    """Yield the fetches that a model with known weights still needs: config.json at most; None: read it after all."""
    checkpoint = select_checkpoint(listing.files)
    assert checkpoint is not None  # it has weights, which were recognised
    reader = _reader(listing, checkpoint, options, Memory(), ())
    reader.files.tensors = {tensor.name: tensor for tensor in kept.tensors}
    if reader.classify().needs_config and not options.config_is_whole:
        yield from reader.read_config()
    reading = conclude_shared(
        kept, checkpoint.weights[0], reader.config, options.norms, options.registry, options.dead_tau
    )
    verdicts = (CONFIG_UNREADABLE,) if reader.config_is_unreadable else ()
    return reading and replace(reading, integrity=(*verdicts, *reading.integrity))


def unreadable(error: AuditError, listing: Listing) -> Reading:
    """Return the reading of a model whose audit ended in error."""
    verdict = error.verdict if isinstance(error, BadFile) else None
    integrity = (verdict,) if verdict else ()
    return Reading(error.status, shown(error, 1_000), None, integrity=integrity, config=listing.config)


def _reader(
    listing: Listing, checkpoint: Checkpoint, options: ReadOptions, memory: Memory, known: Container[str]
) -> _Reader:
    limit_bytes = options.max_model_bytes + options.weights_evidence_bytes
    files = Files(listing, checkpoint, limit_bytes, options.norms, memory, known)
    return _Reader(listing, checkpoint, options, files, listing.config, options.config_is_whole)


@dataclass(slots=True)
class _Reader:
    """The state of one model's audit."""

    listing: Listing
    checkpoint: Checkpoint
    options: ReadOptions
    files: Files
    config: Mapping[str, object] | None
    config_is_whole: bool
    config_is_unreadable: bool = False

    def read(self, *, by_claims: bool = True) -> Plan[Reading | Twin]:
        """Read what is wanted of the model, and conclude."""
        yield from self.files.open(by_claims=by_claims)
        if self.files.is_known:
            return Twin(str(self.files.weights_sha256))
        found = yield from self.settle()
        found = yield from self.ask_writers(found)
        norms = yield from self.read_norms(found)
        return self.conclude(found, norms)

    def classify(self) -> Classification:
        """Return what is concluded from all that is known so far; of identical checkpoints it was made before."""
        tensors = tuple(self.files.tensors.values())
        key = self.files.made_of_all(self.config)
        if key is None:
            return classify(tensors, self.config, self.options.registry)
        registry = self.options.registry
        return self.files.memory.concluded(key, registry, lambda: classify(tensors, self.config, registry))

    def settle(self) -> Plan[Classification]:
        """Classify; then fetch what the answer still hangs on, config and shard headers, until it stands."""
        for _ in range(MAX_ROUNDS):
            found = self.classify()
            if found.needs_config and not self.config_is_whole:
                yield from self.read_config()
                continue
            wanted = self.files.by_file(_stored(self.wanted(found.norms)))
            missing = {path: names for path, names in sorted(wanted.items()) if path not in self.files.opened}
            if not missing:
                break
            yield from self.files.read_headers(missing)
        return found

    def read_config(self) -> Plan[None]:
        """Read config.json, if there is one; it replaces the listing's digest, unless it cannot be used."""
        self.config_is_whole = True
        [answer] = yield (Fetch(self.checkpoint.config, limit_bytes=MAX_CONFIG_BYTES),)
        if not isinstance(answer, NotFound):
            usable = None if isinstance(answer, TooLarge | BadFile) else parse_config(needed(answer).data)
            self.config, self.config_is_unreadable = (self.config, True) if usable is None else (usable, False)

    def ask_writers(self, found: Classification) -> Plan[Classification]:
        """On request, read the smallest matrices that write to each stream whose norms are unknown, and hear them."""
        left_bytes = self.options.weights_evidence_bytes
        for stream in unknown_streams(found.norms) if left_bytes else ():
            if shard := unopened_shard(tuple(self.files.tensors.values()), stream):
                yield from self.files.read_headers({shard: ()})
            asked = witnesses(tuple(self.files.tensors.values()), stream, left_bytes)
            left_bytes -= asked.size_bytes
            values = yield from self.read_values(writer.tensor.name for writer in asked.writers)
            found = with_testimony(found, stream, asked, (values[writer.tensor.name][1] for writer in asked.writers))
        return found

    def read_norms(self, found: Classification) -> Plan[tuple[ReadNorm, ...]]:
        """Read the scales and biases that are wanted, and compute their figures; the other norms go along unread."""
        wanted = self.wanted(found.norms)
        specs = self.files.specs(_stored(wanted))
        for path, spec in specs.values():
            check_scale_size(spec, self.files.where(path))
        values = yield from self.read_values(specs)
        self.files.learn(specs.values())
        chosen = set(map(id, wanted))
        return tuple(self.figures(norm, values) if id(norm) in chosen else ReadNorm(norm) for norm in found.norms)

    def read_values(self, names: Iterable[str]) -> Plan[dict[str, tuple[bytes, Vector]]]:
        """Read these tensors, with the headers of their files where these are not open yet."""
        by_file = self.files.by_file(names)
        if unopened := {path: wanted for path, wanted in by_file.items() if path not in self.files.opened}:
            yield from self.files.read_headers(unopened)
        specs = self.files.specs(name for wanted in by_file.values() for name in wanted)
        yield from self.files.read_ranges(specs.values())
        return {name: self.files.value(path, spec) for name, (path, spec) in specs.items()}

    def wanted(self, norms: Iterable[Norm]) -> list[Norm]:
        """Return the norms whose scales are to be read."""
        return [norm for norm in norms if norm.is_final or self.options.norms == "all"]

    def figures(self, norm: Norm, values: Mapping[str, tuple[bytes, Vector]]) -> ReadNorm:
        """Return the norm with its figures; the vectors and the kernel for final norms only."""
        if norm.scale_tensor is None:
            return without_scale(norm, self.options.dead_tau)
        stored, weight = values[norm.scale_tensor]
        beta = values[norm.bias_tensor][1] if norm.bias_tensor else None
        gamma_sha256 = hashlib.sha256(stored).hexdigest() if norm.is_final else None
        return with_scale(norm, weight, beta, gamma_sha256, self.options.dead_tau)

    def conclude(self, found: Classification, norms: tuple[ReadNorm, ...]) -> Reading:
        """Return all of it as one record."""
        has_norms = any(read.norm.kind in ("layernorm", "rmsnorm", "unknown") for read in norms)
        main = next((read.norm for read in norms if read.norm.is_main), None)
        tensors = tuple(self.files.tensors.values())
        return Reading(
            status="ok" if has_norms else "no_norms",
            reason=None if main else _why_no_final(found, len(tensors)),
            norm_kind=main.kind if main else found.norm_kind,
            norms=norms,
            tensors=tensors,
            integrity=tuple(dict.fromkeys((*self.file_verdicts(), *found.integrity, *value_verdicts(norms)))),
            file_count=len(self.files.paths),
            checkpoint_bytes=self.files.size_bytes,
            config=self.config,
            weights_sha256=self.files.weights_sha256,
        )

    def file_verdicts(self) -> Iterable[str]:
        """Yield the verdicts on a config that is of no use, and on an index that names shards which are not there."""
        if self.config_is_unreadable:
            yield CONFIG_UNREADABLE
        if not self.files.paths <= {file.path for file in self.listing.files}:
            yield SHARD_MISSING


def _stored(norms: Iterable[Norm]) -> list[str]:
    """Return the names of the tensors that norms store."""
    return [name for norm in norms for name in (norm.scale_tensor, norm.bias_tensor) if name]


def _why_no_final(found: Classification, tensor_count: int) -> str:
    if found.norms:
        return f"{len(found.norms)} norms, of which none ends a trunk"
    return f"no norm among {tensor_count:,} tensors"
