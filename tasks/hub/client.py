"""Bytes of files from the Hub: what is shared between the fetches of a model, what is retried, what is remembered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator
from dataclasses import replace
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

import orjson
from yarl import URL

from tasks.core.errors import AuditError, Failed, NotFound, Transient, shown
from tasks.core.records import Chunk, Fetch, Listing
from tasks.hub.answers import Refused, UnknownAddress, asked_bytes
from tasks.hub.entries import FACTS, is_repo_id, listing_of
from tasks.hub.options import HubOptions, Learned, Meter, encoded, origin_of
from tasks.hub.remote import Remote, claims_of, remote_file, why_not_claims
from tasks.hub.retry import Patience, settled
from tasks.hub.wire import Job, Wire

T = TypeVar("T")


class Hub:
    """The Hub, as a reader of a few bytes of many files; an async context manager that holds one HTTP session.

    It does single fetches (`fetch`) and runs reading plans (`follow`). Every answer is checked: status, Content-Range,
    length, size and ETag of the file, commit. The token goes to the endpoint's origin alone. An address at a host of
    files is used again for further ranges, until that host refuses one; then each range asks the Hub for its own.

    Transient faults are retried as `Patience` says; what they amount to when they persist, `retry.settled` says.
    Messages name hosts, never queries: a signed address is a key to the file.

    Args:
        options: how to talk to the Hub.
        learned: what the process already knows; share one between the clients of a process.
        sleep: awaited for every wait.
        rng: draws the waits between tries.
    """

    def __init__(
        self,
        options: HubOptions,
        learned: Learned | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._options = options
        self._learned = learned or Learned()
        self._patience = Patience(options, rng or random.Random())
        self._sleep = sleep
        self._wire = Wire(options, self._learned.pace, sleep)

    async def __aenter__(self) -> Hub:
        self._wire.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.close()

    async def fetch(self, listing: Listing, fetch: Fetch, meter: Meter) -> Chunk:
        """Return the bytes of one fetch, resolved on its own; `follow` shares addresses between fetches.

        Raises:
            AuditError: of the kind that says why not; never Transient, which has been retried by then.
        """
        return await self._fetch(remote_file(listing, fetch.path, self._options), fetch, meter)

    async def follow(
        self,
        listing: Listing,
        plan: Generator[tuple[Fetch, ...], tuple[Chunk | AuditError, ...], T],
        meter: Meter,
    ) -> T:
        """Run a reading plan: do the fetches that it yields, all at once, send it the answers, return its result.

        An AuditError of one fetch is sent as that fetch's answer, so that the plan may go on without an optional file.

        Raises:
            Exception: whatever the plan raises.
        """
        remotes: dict[str, Remote] = {}
        try:
            wanted = next(plan)
            while True:
                wanted = plan.send(await self._fetch_all(listing, wanted, remotes, meter))
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            plan.close()

    async def describe(self, repo_id: str, revision: str | None = None, meter: Meter | None = None) -> Listing:
        """Return what the Hub says of one repo, at a revision or its head, under the name that it has today.

        Raises:
            AuditError: of the kind that says why not.
        """
        where = f"{shown(repo_id)}@{shown(revision)}" if revision else shown(repo_id)
        if not is_repo_id(repo_id):
            raise NotFound(f"{where}: this is no repo's name; give org/name")
        at = f"/revision/{quote(revision, safe='')}" if revision else ""
        facts = "&".join(f"expand={fact}" for fact in FACTS)
        url = URL(self._options.url(f"api/models/{encoded(repo_id)}{at}?{facts}"), encoded=True)
        job = Job(Remote(Listing(repo_id), where, url), Fetch(""), meter or Meter())
        listing = await self._persist(lambda: self._describe(job))
        return replace(listing, is_head=revision is None)

    async def _describe(self, job: Job) -> Listing:
        found = await self._wire.chase(job.remote.url, job)
        if isinstance(found, URL):
            raise Failed(f"{job.where}: the Hub's API redirects to {shown(found.host)}; not followed")
        try:
            listing = listing_of(orjson.loads(found.data))
        except orjson.JSONDecodeError as error:
            raise Transient(
                f"{job.where}: asked for JSON, got {len(found.data):,} bytes of something else: {error}"
            ) from error
        if listing is None or listing.sha is None:
            raise Failed(f"{job.where}: the Hub's answer names no repo with a revision")
        return listing

    async def _fetch_all(
        self, listing: Listing, wanted: tuple[Fetch, ...], remotes: dict[str, Remote], meter: Meter
    ) -> tuple[Chunk | AuditError, ...]:
        async def answer(fetch: Fetch) -> Chunk | AuditError:
            try:
                if fetch.of == "claims":
                    return await self._claims(listing, fetch, meter)
                if fetch.path not in remotes:
                    remotes[fetch.path] = remote_file(listing, fetch.path, self._options)
                return await self._fetch(remotes[fetch.path], fetch, meter)
            except AuditError as error:
                return error

        if len(wanted) == 1:
            return (await answer(wanted[0]),)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(answer(fetch)) for fetch in wanted]
        return tuple(task.result() for task in running)

    async def _claims(self, listing: Listing, fetch: Fetch, meter: Meter) -> Chunk:
        """Return what the Hub tells of all shards' headers; whatever is wrong with that is an answer: ask the index.

        Raises:
            Failed: not asked, or no answer; it is tried once.
            AuditError: the Hub's other answers.
        """
        if reason := why_not_claims(listing, self._options, self._learned):
            raise Failed(f"{shown(listing.repo_id)}: {reason}")
        job = Job(claims_of(listing, fetch.path, self._options), fetch, meter)
        try:
            found = await self._wire.chase(job.remote.url, job)
        except UnknownAddress:
            self._learned.lacks_claims = True
            raise
        except Transient as fault:
            raise settled(fault, tries=1) from fault
        if isinstance(found, URL):
            raise Failed(f"{job.where}: the Hub's API redirects to {shown(found.host)}; not followed")
        return found

    async def _fetch(self, remote: Remote, fetch: Fetch, meter: Meter) -> Chunk:
        is_range = fetch.start < 0 if fetch.stop is None else 0 <= fetch.start < fetch.stop
        if not (is_range or fetch.is_whole):
            raise ValueError(f"{remote.where}: [{fetch.start}, {fetch.stop}) is no range of bytes")
        job = Job(remote, fetch, meter)
        if fetch.is_guess:
            return await self._guess(job)
        return await self._persist(lambda: self._read(job))

    async def _guess(self, job: Job) -> Chunk:
        """Try once to have a range at an address that another fetch of the file has brought.

        Raises:
            Failed: there is no such address, or it did not serve the range.
        """
        remote = job.remote
        async with remote.lock:  # until the other fetch has its address
            if remote.is_in(job.fetch.unless):
                return remote.unread()
            address = remote.signed_url
        if address is None or not self._learned.may_share:
            raise Failed(f"{job.where}: {asked_bytes(job.fetch)} left out: they would cost a request to the Hub")
        try:
            return await self._read_at(address, job, is_reused=True)
        except Transient as fault:
            raise settled(fault, tries=1) from fault

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        tries = 0
        while True:
            try:
                return await attempt()
            except Transient as fault:
                tries += 1
                wait_s = self._patience.wait_s(fault, tries)
            await self._sleep(wait_s)

    async def _read(self, job: Job) -> Chunk:
        """Try once: at the address that served the file before if there is one, else where the Hub sends us."""
        found, is_reused = await self._locate(job)
        return found if isinstance(found, Chunk) else await self._read_at(found, job, is_reused=is_reused)

    async def _read_at(self, address: URL, job: Job, *, is_reused: bool) -> Chunk:
        try:
            chunk = await self._wire.chase(address, job)
        except Transient as fault:
            if not job.fetch.is_guess:
                job.remote.forget(address)
            if is_reused and isinstance(fault, Refused):
                self._learned.serves_more.setdefault(origin_of(address), False)
                raise Transient(str(fault), wait_s=0.0) from fault
            raise
        if isinstance(chunk, URL):
            raise Failed(f"{job.where}: {shown(address.host)} redirects back to the Hub; not followed")
        if is_reused:
            self._learned.serves_more[origin_of(address)] = True
        return chunk

    async def _locate(self, job: Job) -> tuple[Chunk | URL, bool]:
        """Return the file's address at a host of files, or its bytes if the Hub has them; and whether it is reused."""
        if job.remote.is_direct or not self._learned.may_share:
            return await self._known_or_resolved(job)  # there may be no address to share: nothing to wait for
        async with job.remote.lock:
            return await self._known_or_resolved(job)

    async def _known_or_resolved(self, job: Job) -> tuple[Chunk | URL, bool]:
        remote, serves_more = job.remote, self._learned.serves_more
        if remote.signed_url is not None and serves_more.get(origin_of(remote.signed_url)) is not False:
            return remote.signed_url, True
        found = await self._wire.chase(remote.url, job)
        if isinstance(found, URL):
            remote.signed_url = found
        else:
            remote.is_direct = True
        return (remote.unread() if remote.is_in(job.fetch.unless) else found), False
