"""What a probe cannot answer, as the status and reason of its row."""

from __future__ import annotations

from typing import Literal

from tasks.core.errors import AuditError

Status = Literal[
    "ok",
    "unsupported",  # no code of transformers for it, or a storage format that the probe does not widen
    "no_safetensors",
    "no_norms",  # nothing to probe: the model has no norm that ends its trunk
    "no_tokenizer",
    "bad_file",  # config, tokenizer or checkpoint contradict the format, or each other
    "not_finite",  # NaN or Inf in the weights, or on the way to the norm
    "out_of_memory",
    "timeout",
    "gated",
    "private",
    "disabled",
    "not_found",
    "too_large",
    "failed",
]


class NoProbe(Exception):
    """One probe ends here.

    Args:
        status: of its row.
        reason: what was asked, what came, and what to do.
    """

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status


class NotFinite(Exception):
    """NaN or Inf on the way to the norm; the message says where it was first seen."""


class NotAStack(Exception):
    """The blocks are not run one after the other with nothing between them; the message says what is."""


def no_probe(error: AuditError) -> NoProbe:
    """Return what an error of reading amounts to for a probe."""
    return NoProbe(error.status, str(error))


def in_words(error: BaseException) -> str:
    """Return an error's kind and the beginning of its message as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
