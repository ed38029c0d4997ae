"""Errors of a training that diverges."""

from __future__ import annotations


class NonFiniteError(ValueError):
    """A prediction, loss or gradient is NaN or infinite.

    Attributes:
        block: the block that it belongs to; None if that is not known.
    """

    block: int | None = None
