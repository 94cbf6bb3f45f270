"""Figures: what a benchmark measured, as numbers for programs and as text for people."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """One measured value.

    Attributes:
        name: what was measured; unique within a benchmark.
        value: the number, in the unit that `form` shows.
        form: how `str.format` shows the number.
    """

    name: str
    value: float
    form: str = "{:,.0f}"

    @property
    def text(self) -> str:
        """The number with its unit."""
        return self.form.format(self.value)
