"""What the benchmarks share: rates, medians, tables, where the measured time ran, `--brief`."""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any


def over(this: float, that: float) -> float:
    """This for each of that; not a number, which tables leave out, where there is none of that."""
    return this / that if that else math.nan


def brief(parser: argparse.ArgumentParser, **values: Any) -> None:
    """Declare `--brief`, which sets these values; what is given after it still counts.

    It is for seeing that a benchmark works: its figures are of too little to mean anything.
    """

    class Brief(argparse.Action):
        def __call__(self, _: Any, namespace: argparse.Namespace, *__: Any) -> None:
            vars(namespace).update(values)

    parser.add_argument(
        "--brief",
        action=Brief,
        nargs=0,
        help="as little of everything as shows that it works; its figures mean nothing",
    )


def middle(values: Iterable[float], digits: int = 1) -> str:
    """The median as text, a dash when there is nothing to take it of."""
    found = _measured(values)
    return f"{median(found):,.{digits}f}" if found else "-"


def most(values: Iterable[float], digits: int = 1) -> str:
    """The greatest as text, a dash when there is none."""
    found = _measured(values)
    return f"{max(found):,.{digits}f}" if found else "-"


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Median and range: `2.10 (1.95 to 2.30)`."""
    found = _measured(values)
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


def _measured(values: Iterable[float]) -> list[float]:
    return [v for v in values if not math.isnan(v)]
