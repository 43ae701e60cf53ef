"""How often a fault that may pass is tried again, and after what wait."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tasks.core.errors import AuditError, BadFile, Failed, Transient
from tasks.hub.options import HubOptions

LONGEST_ASKED_WAIT_S = 900.0  # three windows of the Hub's quota; whoever asks for more is asked again another night


class Contradiction(Transient):
    """Two things the Hub says of one file disagree: a fault on the way if it passes, a bad file if it does not."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to bear with transient faults: exponential backoff with full jitter, or the wait that was asked for.

    Attributes:
        options: number of retries and bounds of the waits.
        rng: draws the waits.
    """

    options: HubOptions
    rng: random.Random = field(default_factory=random.Random)

    def wait_s(self, fault: Transient, tries: int) -> float:
        """Return the seconds to wait after this fault, which ended the given number of tries.

        Raises:
            AuditError: what `settled` makes of the fault: the tries are used up, or the wait asked for is too long.
        """
        if tries > self.options.retries or (fault.wait_s or 0.0) > LONGEST_ASKED_WAIT_S:
            raise settled(fault, tries) from fault
        if fault.wait_s is not None:
            return fault.wait_s
        longest = min(self.options.longest_wait_s, self.options.first_wait_s * 2.0 ** (tries - 1))
        return self.rng.uniform(0.0, longest)


def settled(fault: Transient, tries: int) -> AuditError:
    """Return the error that a fault amounts to once it is not tried again.

    A contradiction that persists is the file's own (BadFile): a size that is not X-Linked-Size, an ETag that changes.
    Everything else is the way's or the server's (Failed): no answer, short bodies, wrong ranges.
    """
    what = BadFile if isinstance(fault, Contradiction) else Failed
    return what(f"{fault} (tried {tries} time{'s' if tries > 1 else ''})")
