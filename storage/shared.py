"""Which weights the store has read, by their sha256; and what it keeps of them, for repos that hold the same."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from storage.database import open_database
from storage.outdated import OutdatedAudit, with_conclusions
from storage.scan import sql_file
from storage.store import Store

PREFIX_DIGITS = 16  # of a sha256, held in 8 bytes: a million of them take 8 MB, and a false alarm costs one query


class KnownWeights:
    """The weights that a store's snapshot knew when this was made; threads may share it, from `with` to its end.

    Args:
        store: whose snapshot to ask.
        read_version: of the reader that asks; what another has read is not known.

    Raises:
        StoreError: the store cannot be read.
    """

    def __init__(self, store: Store, read_version: int) -> None:
        self._read_version = read_version
        self._asking = threading.Lock()
        self._database = open_database(store)
        found = self._database.sql(sql_file("queries/known_weights.sql"), params={"read_version": read_version})
        self._prefixes = np.unique(_prefixes([row[0] for row in found.fetchall()]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the snapshot."""
        with self._asking:
            self._database.close()
            del self._database  # DuckDB complains at a process's end of every connection that is still referred to

    def __contains__(self, sha256: object) -> bool:
        """Return whether such weights were read; once in very many times wrongly, which `find` shows."""
        if not isinstance(sha256, str):
            return False
        [prefix] = _prefixes([sha256])
        at = int(np.searchsorted(self._prefixes, prefix))
        return at < len(self._prefixes) and bool(self._prefixes[at] == prefix)

    def find(self, sha256: str) -> OutdatedAudit | None:
        """Return the newest audit that read these weights, by whatever method; None where there is none.

        Raises:
            duckdb.Error: the snapshot cannot be read.
        """
        values = {"weights_sha256": sha256, "read_version": self._read_version}
        with self._asking:
            found = self._database.sql(sql_file("queries/read_of_weights.sql"), params=values).to_arrow_table()
            return next(with_conclusions(self._database, found.to_pylist()), None)


def _prefixes(sha256s: list[str]) -> NDArray[np.uint64]:
    return np.array([int(sha256[:PREFIX_DIGITS], 16) for sha256 in sha256s], np.uint64)
