"""One coordinator per store: a lease with an expiry, renewed while its holder lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from storage.errors import StoreError
from storage.place import Clock
from storage.store import LEASE, Store

TTL_S = 120.0  # a holder on another machine that died keeps others out for as long as this
_TRUSTED_S = 2 * TTL_S  # machines' clocks may differ by one lease; what ends later was written by a wrong clock
_MAX_PID = 2**31 - 1
_RENEWALS_PER_TTL = 4  # a renewal may be late by two thirds of the time and the lease still holds


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease.

    Attributes:
        owner: what the holder calls itself.
        host: its machine.
        pid: its process there.
        process: what tells this process from a later one with its pid: boot, namespace and start time; "" unknown.
        token: different for every lease.
        acquired_at: Unix time, s.
        expires_at: Unix time, s.
    """

    owner: str
    host: str
    pid: int
    process: str
    token: str
    acquired_at: float
    expires_at: float

    def __str__(self) -> str:
        return f"{self.owner} (host {self.host}, pid {self.pid}, since {_moment(self.acquired_at)})"

    def to_bytes(self) -> bytes:
        """Return the lease file's content."""
        return json.dumps(asdict(self)).encode()


class Lease:
    """A lease that is held; `check` before what only its holder may do."""

    def __init__(self, store: Store, holder: Holder, ttl_s: float, clock: Clock) -> None:
        self._store = store
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def holder(self) -> Holder:
        """Who holds it, and until when."""
        return self._holder

    def check(self) -> None:
        """Return if the lease is still held.

        Raises:
            StoreError: it has expired (this process was stopped for longer than it lasts) or another has taken it.
        """
        if self._clock() >= self._holder.expires_at or self._store.place.read(LEASE) != self._holder.to_bytes():
            raise StoreError(
                f"{self._store.location}: {self._holder.owner} has lost its lease, which lasts {self._ttl_s:g} s "
                "without renewal; run again: what was written stays, and the work goes on where it was"
            )

    def renew(self) -> bool:
        """Extend the lease by its full time from now; return whether it was still held."""
        with self._lock:
            renewed = replace(self._holder, expires_at=self._clock() + self._ttl_s)
            if not self._store.place.swap(LEASE, self._holder.to_bytes(), renewed.to_bytes()):
                return False
            self._holder = renewed
            return True

    def release(self) -> None:
        """Give the lease back, if it is still held."""
        with self._lock:
            self._store.place.swap(LEASE, self._holder.to_bytes(), None)


@contextlib.contextmanager
def hold_lease(store: Store, owner: str, ttl_s: float = TTL_S, clock: Clock = time.time) -> Iterator[Lease]:
    """Hold the store's lease for the length of a block; a thread renews it meanwhile.

    A lease is taken over once it has expired, by the clock of the place that holds the store, or at once when its
    holder was on this machine and is dead.

    Args:
        store: the store to be alone in.
        owner: what this process calls itself, for the message that others get.
        ttl_s: how long the lease lasts without renewal, s; at most TTL_S.
        clock: this machine's Unix time in s.

    Raises:
        StoreError: another holds it; the message says who, where and since when.
    """
    lease = _acquire(store, owner, ttl_s, store.place.clock(clock))
    ended = threading.Event()
    renewer = threading.Thread(target=_keep_renewing, args=(lease, ended, ttl_s / _RENEWALS_PER_TTL), daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        ended.set()
        renewer.join()
        lease.release()


def lease_holder(store: Store, clock: Clock = time.time) -> Holder | None:
    """Return who holds the store's lease; None where nobody does, or its holder is dead or let it run out."""
    content = store.place.read(LEASE)
    return None if not content else _living(content, store.place.clock(clock)())


def require_free(store: Store, clock: Clock = time.time) -> None:
    """Raise StoreError where the store's lease is held: what would then be begun could not go on."""
    _refuse(store, lease_holder(store, clock))


def _refuse(store: Store, holder: Holder | None) -> None:
    if holder is not None:
        raise StoreError(
            f"{store.location} is held by {holder}; wait until it has ended, or end it; "
            f"should it be dead, its lease runs out at {_moment(holder.expires_at)}"
        )


def _acquire(store: Store, owner: str, ttl_s: float, clock: Clock) -> Lease:
    content, now = store.place.read(LEASE), clock()
    _refuse(store, _living(content, now))
    mine = Holder(owner, socket.gethostname(), os.getpid(), _process(os.getpid()), uuid.uuid4().hex, now, now + ttl_s)
    if not store.place.swap(LEASE, content, mine.to_bytes()):  # another was faster
        return _acquire(store, owner, ttl_s, clock)
    return Lease(store, mine, ttl_s, clock)


def _keep_renewing(lease: Lease, ended: threading.Event, every_s: float) -> None:
    while not ended.wait(every_s):
        with contextlib.suppress(StoreError):  # a full disk may have room again before the lease runs out
            if not lease.renew():
                return


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(sep=" ", timespec="seconds")


def _living(content: bytes | None, now: float) -> Holder | None:
    """Return the holder that a lease file names, if the lease still counts."""
    holder = None if content is None else _parsed(content)
    if holder is None or not 0 < holder.expires_at - now <= _TRUSTED_S or _is_dead(holder):
        return None
    return holder


def _parsed(content: bytes) -> Holder | None:
    """Return the holder in a lease file; a file that names none (no JSON, other fields or types) is nobody's."""
    try:
        holder = Holder(**json.loads(content))
        _moment(holder.acquired_at)
        _moment(holder.expires_at)
    except (ValueError, TypeError, OverflowError, OSError):  # the last two: a time beyond the calendar
        return None
    texts = (holder.owner, holder.host, holder.process, holder.token)
    is_sound = all(isinstance(text, str) for text in texts) and isinstance(holder.pid, int)
    return holder if is_sound and 0 < holder.pid <= _MAX_PID else None


def _is_dead(holder: Holder) -> bool:
    """Return whether the holder was a process of this machine that is certainly gone."""
    if holder.host != socket.gethostname() or _namespace(holder.process) != _namespace(_process(os.getpid())):
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's: alive, and not ours to look into
        return False
    return _process(holder.pid) not in ("", holder.process)


def _namespace(process: str) -> str:
    return process.partition(" ")[0]


def _process(pid: int) -> str:
    """Return "namespace boot start" of a living process, which no later process has; "" where /proc does not tell."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]  # field 22, in ticks since boot
    except (OSError, IndexError):
        return ""
    return f"{namespace} {boot} {started}"
