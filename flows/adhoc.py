"""Audits made on request: local folders and repos named on the command line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

from storage.database import build
from storage.lease import lease_holder
from storage.parts import write_batch
from storage.store import open_store
from tasks.core.reading import ReadOptions
from tasks.core.records import Audit
from tasks.core.registry import load_registry
from tasks.core.rows import Stamp, audit_rows, listing_row, merge_rows
from tasks.folder import audit_folder

_REPO = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?")


def audits(models: Sequence[str], *, norms: Literal["final", "all"], use_registry: bool = True) -> Iterator[Audit]:
    """Yield an audit of each model, in the order given.

    Args:
        models: local folders and files, and repos as org/name or org/name@revision; what exists here is local.
        norms: whose scales are read.
        use_registry: consult the measured facts on known architectures.
    """
    options = ReadOptions(norms=norms, registry=load_registry() if use_registry else None)
    remote = [model for model in models if not _is_local(model)]
    from_hub = iter(_audits_from_hub(remote, options)) if remote else iter(())
    for model in models:
        yield audit_folder(model, options) if _is_local(model) else next(from_hub)


def keep(done: Sequence[Audit], location: str) -> str:
    """Write audits to the store, rebuild its database, and return what was done in words.

    While a night holds the store, its own rebuild will take these audits in.

    Raises:
        StoreError: the store cannot be written.
    """
    store, now = open_store(location), datetime.now(UTC)
    stamp = Stamp(f"adhoc-{now:%Y%m%dT%H%M%S}-{uuid4().hex[:8]}", now.date(), now)
    listed = [listing_row(audit.listing, stamp.night) for audit in done if audit.cost.hub_requests]
    rows = merge_rows([{"listings": listed}, *(audit_rows(audit, stamp) for audit in done)])
    write_batch(store, stamp.night, stamp.audit_id, 0, rows)
    holder = lease_holder(store)
    if holder is None:
        build(store)
    later = f"; the night that holds it ({holder}) will take them into the database" if holder else ""
    return f"{len(done)} audits written to {store.location}{later}"


def _is_local(model: str) -> bool:
    return Path(model).expanduser().exists() or not _REPO.fullmatch(model) or model.endswith(".safetensors")


def _audits_from_hub(models: Sequence[str], options: ReadOptions) -> list[Audit]:
    from tasks.batch import audit_repos
    from tasks.hub import options_from_environment

    named = [(match["repo"], match["revision"]) for model in models if (match := _REPO.fullmatch(model))]
    return asyncio.run(audit_repos(named, options_from_environment(), options))
