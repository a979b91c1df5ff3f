"""Remembers what a function gives for the same objects, which need not be hashable."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_KNOWN_MAX = 4096


def remembered(function: Callable[P, T]) -> Callable[P, T]:
    """The function, asked once for the same arguments: texts by value, all else by identity.

    What it was given is kept with what it gave, so that no other object can have its identity.
    """
    known: dict[tuple[object, ...], tuple[object, T]] = {}

    @wraps(function)
    def recalled(*args: P.args, **kwargs: P.kwargs) -> T:
        given = (*args, *kwargs.values())
        key = (tuple(kwargs), *(a if isinstance(a, str) else id(a) for a in given))
        if key not in known:
            if len(known) >= _KNOWN_MAX:
                known.clear()
            known[key] = (given, function(*args, **kwargs))
        return known[key][1]

    return recalled
