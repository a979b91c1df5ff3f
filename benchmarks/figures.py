"""What the benchmarks share: medians, tables, where the measured time ran."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from statistics import median


def middle(values: Iterable[float], digits: int = 1) -> str:
    """The median as text, a dash when there is nothing to take it of."""
    found = list(values)
    return f"{median(found):,.{digits}f}" if found else "-"


def most(values: Iterable[float], digits: int = 1) -> str:
    """The greatest as text, a dash when there is none."""
    found = list(values)
    return f"{max(found):,.{digits}f}" if found else "-"


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Median and range: `2.10 (1.95 to 2.30)`."""
    found = list(values)
    if not found:
        return "-"
    return f"{middle(found, digits)} ({min(found):,.{digits}f} to {max(found):,.{digits}f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows under their headings, the first column to the left, the others to the right."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[c]) for line in lines) for c in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if c == 0 else cell.rjust(width)
            for c, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def machine() -> str:
    """Where this runs, for the heading: figures of two machines do not compare."""
    load = os.getloadavg()[0]
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f}"
