"""Everything that can go wrong with one model, as one small tree.

    AuditError                    one model's audit ends here, with this status and reason
    ├── BadFile                   bad_file: the bytes contradict the format, or each other
    ├── TooLarge                  too_large: reading on would cost more than the settings allow
    ├── Unavailable               the Hub answered, and its answer is no
    │   ├── NotFound              not_found
    │   ├── Gated                 gated
    │   ├── Private               private
    │   └── Disabled              disabled
    ├── Failed                    failed: no answer; a later night tries again
    │   └── Transient             the only kind that is retried at once
    └── DegenerateKernel          a scale has no kernel direction (it holds NaN or Inf, or nothing)

A message names repo and file and the two things that disagree; names from outside are shown with `shown`.
"""

from __future__ import annotations

from typing import ClassVar

from tasks.core.records import Status


def shown(text: object, limit: int = 200) -> str:
    """Return untrusted text as one printable line: control and format characters escaped, at most limit characters."""
    line = str(text)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


class AuditError(Exception):
    """One model could not be audited; status is its row's status, the message its reason."""

    status: ClassVar[Status] = "failed"


class BadFile(AuditError):
    """The bytes contradict the safetensors format, the index, or what the Hub says of the file.

    Args:
        message: repo and file, and the two things that disagree.
        verdict: the word of column `integrity` for it (verdicts.py), or None where there is none.
    """

    status = "bad_file"

    def __init__(self, message: str, verdict: str | None = None) -> None:
        super().__init__(message)
        self.verdict = verdict


class TooLarge(AuditError):
    """Reading on would take more bytes or memory than the limits allow."""

    status = "too_large"


class Unavailable(AuditError):
    """The Hub answered, and the answer is that this model cannot be read."""


class NotFound(Unavailable):
    """No such repo, revision or file."""

    status = "not_found"


class Gated(Unavailable):
    """The repo asks for terms to be accepted first."""

    status = "gated"


class Private(Unavailable):
    """The repo is private and the token does not open it."""

    status = "private"


class Disabled(Unavailable):
    """The Hub has disabled the repo."""

    status = "disabled"


class Failed(AuditError):
    """No answer was had; a later night tries again."""


class Transient(Failed):
    """A fault that may be gone in a moment; the only error that is retried.

    Args:
        message: what was asked and what came.
        wait_s: seconds that the server asked to wait, or None.
    """

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class DegenerateKernel(AuditError):
    """A scale that holds NaN or infinite values, or no values, has no kernel direction."""


def defect(error: Exception, repo_id: str) -> Failed:
    """Return what an exception that nobody expected amounts to: a fault of this program, which costs one model."""
    return Failed(f"{shown(repo_id)}: defect in normaudit, please report it: {type(error).__name__}: {error}")
