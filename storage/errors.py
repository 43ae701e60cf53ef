"""The one error of this package."""

from __future__ import annotations


class StoreError(Exception):
    """The store cannot do what was asked; the message says what was asked, what came and what to do next."""
