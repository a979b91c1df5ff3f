"""How Hypothesis is asked for examples: to explore, and no more than that.

What is found is reduced and kept by the engine, so Hypothesis neither shrinks nor remembers.
"""

from __future__ import annotations

from typing import TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def exploring(examples: int) -> settings:
    """Settings to draw up to so many examples."""
    return settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )


def plainest(strategy: SearchStrategy[T]) -> T:
    """What a strategy makes when every choice is the plainest one; always the same."""
    made: list[T] = []

    @exploring(1)
    @given(strategy)
    def draw(example: T) -> None:
        made.append(example)

    draw()
    return made[0]
