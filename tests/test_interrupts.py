"""An interrupt that Python would swallow ends a search all the same."""

from __future__ import annotations

import gc
import signal
import threading

import pytest

from invariants import interrupts
from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.search.events import Event, Progress
from invariants.search.explorer import Explorer, Search
from invariants.servers.environment import Environment


class _Swallowing:
    """Its finalizer is interrupted, where Python only prints what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_a_swallowed_interrupt_is_raised_again() -> None:
    with interrupts.insistent() as check:
        check()
        _Swallowing()
        with pytest.raises(KeyboardInterrupt):
            check()


def test_an_interrupt_of_the_garbage_collector_is_raised_again() -> None:
    def callback(phase: str, info: object) -> None:
        del info
        if phase == "start":
            signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(callback)
    try:
        with interrupts.insistent() as check:
            gc.collect()
            with pytest.raises(KeyboardInterrupt):
                check()
    finally:
        gc.callbacks.remove(callback)


def test_an_interrupt_that_is_not_swallowed_is_raised_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts.insistent():
        signal.raise_signal(signal.SIGINT)


def test_an_error_that_an_interrupt_causes_is_the_interrupt() -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            raise AssertionError("what was interrupted cannot end well")

    with pytest.raises(KeyboardInterrupt), interrupts.insistent():
        work()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(AssertionError), interrupts.insistent():
        raise AssertionError


def test_the_handlers_are_put_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with interrupts.insistent():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_thread_has_no_signals() -> None:
    done: list[bool] = []

    def work() -> None:
        with interrupts.insistent() as check:
            check()
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_search_ends_although_its_interrupt_was_swallowed(
    head: Environment, contract: Contract
) -> None:
    swallowed: list[Event] = []

    def listener(event: Event) -> None:
        if isinstance(event, Progress) and not swallowed:
            swallowed.append(event)
            _Swallowing()

    explorer = Explorer(head, contract, listener)
    try:
        with pytest.raises(KeyboardInterrupt):
            explorer.explore(INVARIANTS["pii"], Search(seed=1, examples=100_000, seconds=20))
    finally:
        explorer.close()
    assert swallowed
