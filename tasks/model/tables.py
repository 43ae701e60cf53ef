"""The tables of a vocabulary, embedding and head: often larger than a block, and seldom needed whole.

A forward pass asks an embedding for the rows of its ids alone, and a head is gone through some rows after the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

BLOCK_ENTRIES = 1 << 20  # of a table at once: 8 MB in float64


class Table(Protocol):
    """A matrix of which some rows are had at a time; a tensor is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return rows, by a slice or by their numbers, shape (n,)."""


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield the blocks of a table's rows, in their order."""
    step = block_rows(shape)
    return (slice(start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def block_rows(shape: tuple[int, ...]) -> int:
    """Return how many rows of a table make a block."""
    return max(1, BLOCK_ENTRIES // shape[1])


def numbers(rows: slice | Tensor, count: int) -> Tensor:
    """Return the numbers of the rows that are asked for, of so many, shape (n,), on the CPU."""
    return torch.arange(count)[rows] if isinstance(rows, slice) else rows.cpu()


def vocabulary(model: Any, runner: str) -> list[nn.Parameter]:
    """Return the weights of a model's embedding of ids and of its linear head; one where the two are tied.

    Args:
        model: with or without values.
        runner: path of the model that is run.
    """
    ends = _embedding(model.get_submodule(runner)), model.get_output_embeddings()
    found = {id(end.weight): end.weight for end in ends if isinstance(end, nn.Embedding | nn.Linear)}
    return list(found.values())


def names_of(model: nn.Module, value: Tensor) -> list[str]:
    """Return all names by which a parameter goes."""
    return [name for name, other in model.named_parameters(remove_duplicate=False) if other is value]


def embeddings(model: Any, runner: str, table: Callable[[str], Table | None]) -> dict[str, Table]:
    """Return the embeddings of ids that need not be whole to be run: {path: its table}.

    Args:
        model: without values.
        runner: path of the model that is run.
        table: from a parameter's name to its table, or None.
    """
    embedding = _embedding(model.get_submodule(runner))
    if not isinstance(embedding, nn.Embedding):
        return {}
    paths = [name.rpartition(".")[0] for name in names_of(model, embedding.weight)]
    paths = [path for path in paths if isinstance(model.get_submodule(path), nn.Embedding)]
    found = {path: table(f"{path}.weight") for path in paths}
    return {path: rows for path, rows in found.items() if rows is not None}


@contextmanager
def gathered(model: nn.Module, tables: Mapping[str, Table], device: torch.device) -> Iterator[None]:
    """Let embeddings without values hold the rows that they are asked for, fetched when they are.

    Args:
        model: that holds them.
        tables: of each by its path.
        device: where ids are.
    """
    with ExitStack() as stack:
        for path, table in tables.items():
            stack.enter_context(_gathering(model.get_submodule(path), table, device))
        yield


@contextmanager
def _gathering(embedding: Any, table: Table, device: torch.device) -> Iterator[None]:
    rows = _Rows(table, device)
    whole, padding = embedding.weight, embedding.padding_idx
    embedding.padding_idx = None  # it says which row learns nothing, and is checked against the number of rows
    handle = embedding.register_forward_pre_hook(rows)
    try:
        yield
    finally:
        handle.remove()
        embedding.weight, embedding.padding_idx = whole, padding


class _Rows:
    """Called before an embedding is: gives it the rows for its ids, and ids that number them."""

    def __init__(self, table: Table, device: torch.device) -> None:
        self._table = table
        self._place = torch.full((table.shape[0],), -1, device=device)  # of each id among the rows; -1: not there
        self._rows = table[:0].to(device)

    def __call__(self, embedding: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = args[0]
        asked = ids.unique()
        new = asked[self._place[asked] < 0]
        if len(new):
            self._place[new] = torch.arange(len(self._rows), len(self._rows) + len(new), device=new.device)
            self._rows = torch.cat([self._rows, self._table[new].to(self._rows)])
            embedding.weight = nn.Parameter(self._rows, requires_grad=False)
        return self._place[ids], *args[1:]


def _embedding(runner: Any) -> Any:
    """Return what turns ids into hidden states, or pictures or sounds; None where transformers does not know."""
    try:
        return runner.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
