"""Audits made on request: local folders and repos named on the command line."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

from flows.output import UsageError, complain
from storage.database import build
from storage.errors import StoreError
from storage.lease import lease_holder
from storage.store import Store, open_store
from tasks.core.reading import ReadOptions
from tasks.core.records import Audit
from tasks.core.registry import Registry, load_registry, measuring
from tasks.core.rows import Stamp, listing_row
from tasks.folder import audit_folder
from tasks.storing import AuditWriter

# A part of a repo's name never begins with a dot: "./model" that is not there is a mistyped path, and no repo.
_REPO = re.compile(r"(?P<repo>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")

_ONE_CHECKPOINT = ("config.json", "model_index.json", "adapter_config.json")


@dataclass(frozen=True, slots=True)
class Model:
    """What a user named: a path here, or a repo and perhaps its revision."""

    path: str | None = None
    repo_id: str = ""
    revision: str | None = None


def model_named(text: str) -> Model:
    """Return what a command line's argument names; what exists here is local, and ~ is a home as in a shell.

    Raises:
        UsageError: it is empty.
    """
    if not text:
        raise UsageError("an empty MODEL; give org/name, org/name@revision, a local folder, or a .safetensors file")
    text = _expanded(text)
    repo = _REPO.fullmatch(text)
    if repo is None or text.endswith(".safetensors") or Path(text).exists():
        return Model(path=text)
    return Model(repo_id=repo["repo"], revision=repo["revision"])


def checkpoints_of(model: Model) -> list[Model]:
    """Return a model, or one for each checkpoint where it names a folder of folders that hold checkpoints.

    A folder with weights, a config or a pipeline's index of its own is one checkpoint, whatever lies below it.
    """
    root = Path(model.path) if model.path is not None else None
    if root is None or not root.is_dir() or any((root / name).exists() for name in _ONE_CHECKPOINT) or _weights(root):
        return [model]
    try:
        below = sorted(folder for folder in root.iterdir() if folder.is_dir() and _weights(folder))
    except OSError:  # the audit of the folder itself will say what is wrong with it
        return [model]
    return [Model(path=str(folder)) for folder in below] or [model]


def registry_for(*, use_registry: bool, behaviour: bool) -> Registry | None:
    """Return the measured facts on architectures that an audit is to consult.

    Args:
        use_registry: those that were measured ahead.
        behaviour: build and run what they leave open; what cannot be built is said on stderr.
    """
    registry = load_registry() if use_registry else None
    if not behaviour:
        return registry
    from tasks.model.behaviour.ondemand import OnDemand

    return measuring(registry, OnDemand(tell=lambda failure: complain([failure])))


def audits(
    models: Sequence[Model],
    *,
    norms: Literal["final", "all"],
    registry: Registry | None,
    weights_evidence_bytes: int = 0,
) -> Iterator[Audit]:
    """Yield an audit of each model, in the order given.

    Args:
        models: as `model_named` gives them.
        norms: whose scales are read.
        registry: measured facts on architectures, as `registry_for` returns them.
        weights_evidence_bytes: what may be read of each model's matrices where nothing else tells a norm's kind.

    Raises:
        UsageError: HF_ENDPOINT or HF_TOKEN cannot be used.
    """
    options = ReadOptions(norms=norms, registry=registry, weights_evidence_bytes=weights_evidence_bytes)
    remote = [(model.repo_id, model.revision) for model in models if model.path is None]
    # measuring holds up the event loop, and with it whatever else is on its way: then one repo at a time
    groups = [[repo] for repo in remote] if registry is not None and registry.measure else [remote]
    from_hub = (audit for group in groups if group for audit in _audits_from_hub(group, options))
    for model in models:
        yield _audit_here(model.path, options) if model.path is not None else next(from_hub)


def keep(models: Sequence[Model], done: Sequence[Audit], location: str) -> str:
    """Write audits to the store, rebuild its database, and return what was done in words.

    Only what the Hub says of a repo's head goes into `listings`: a revision that was asked for by name is not what the
    Hub serves, and what it does not describe may be private. While a night holds the store, its own rebuild will take
    these audits in.

    Raises:
        StoreError: the store cannot be written.
    """
    store, now = open_store(location), datetime.now(UTC)
    stamp = Stamp(f"adhoc-{now:%Y%m%dT%H%M%S}-{uuid4().hex[:8]}", now.date(), now)
    heads = [
        audit.listing
        for model, audit in zip(models, done, strict=True)
        if model.path is None and model.revision is None and audit.listing.sha
    ]
    listed = [listing_row(listing, stamp.night) for listing in heads]
    stored: list[Audit] = []
    writer = AuditWriter(store, stamp, 0, stored.append)
    for audit in done:
        writer.add(audit)
    writer.write(listed)
    unfit = sum(before is not after for before, after in zip(done, stored, strict=True))
    how = f", {unfit} of them only as failed: what was read cannot be stored" if unfit else ""
    count = f"{len(done)} {'audit' if len(done) == 1 else 'audits'}"
    return f"{count} written to {store.location}{how}{rebuilt(store)}"


def _weights(folder: Path) -> bool:
    return next(folder.glob("*.safetensors"), None) is not None


def _expanded(text: str) -> str:
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:  # there is no such user: a path like any other
        return text


def rebuilt(store: Store, what: str = "the audits") -> str:
    """Rebuild the database, and return what there is to be said of that."""
    holder = lease_holder(store)
    if holder is not None:
        return f"; the night that holds it ({holder}) will take them into the database"
    try:
        report = build(store)
    except (StoreError, OSError) as error:
        raise StoreError(f"{what} are written, but the database could not be rebuilt: {error}") from error
    return "".join(f"; set aside: {message}" for message in report.set_aside)


def _audit_here(path: str, options: ReadOptions) -> Audit:
    audit = audit_folder(path, options)
    # a path need not be UTF-8, and everything that shows or stores its name must be
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return replace(audit, listing=replace(audit.listing, repo_id=name))


def _audits_from_hub(repos: Sequence[tuple[str, str | None]], options: ReadOptions) -> Iterator[Audit]:
    from tasks.batch import audit_repos
    from tasks.hub import options_from_environment

    try:
        hub = options_from_environment()
    except ValueError as error:
        raise UsageError(f"HF_ENDPOINT, HF_TOKEN: {error}") from error
    with asyncio.Runner() as runner:
        audits = audit_repos(repos, hub, options)
        try:
            for _ in repos:
                yield runner.run(audits.__anext__())
        finally:
            runner.run(audits.aclose())
