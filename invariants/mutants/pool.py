"""Hunts mutants on all cores: one process each, with clones of one template.

Roles belong to the server, so mutants of roles are hunted last, one at a time, when nothing else
runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from types import FrameType

from invariants import interrupts
from invariants.contract.contract import Contract
from invariants.errors import EXIT_INFRASTRUCTURE, InfrastructureError
from invariants.mutants.base import Mutant
from invariants.mutants.hunt import Hunt, Outcome, hunt
from invariants.servers.environment import Environment
from invariants.unforeseen import foreseen

_FAREWELL_SECONDS = 5.0

Task = tuple[Mutant, Hunt]


def hunt_all(
    environment: Environment, contract: Contract, tasks: Sequence[Task], jobs: int
) -> Iterator[Outcome]:
    """Hunt each mutant by its plan; outcomes come as they are known, in no order.

    Raises `InfrastructureError` when the server fails; nothing is left behind then either.
    """
    together = [t for t in tasks if not t[0].server_wide]
    if jobs == 1:
        for mutant, plan in together:
            yield hunt(environment, contract, mutant, plan)
    else:
        with _workers(environment, contract, min(jobs, max(1, len(together)))) as pool:
            # Workers begin here: what a terminal sends them is for us to pass on.
            with interrupts.held_back():
                waiting: list[Future[Outcome]] = [pool.submit(_hunt, *task) for task in together]
            try:
                for done in as_completed(waiting):
                    yield done.result()
            except BrokenProcessPool:
                raise InfrastructureError(
                    "a worker process ended without a word; try again with --jobs 1"
                ) from None
    for mutant, plan in tasks:
        if mutant.server_wide:
            yield hunt(environment, contract, mutant, plan)


@contextmanager
def _workers(
    environment: Environment, contract: Contract, jobs: int
) -> Iterator[ProcessPoolExecutor]:
    # So that a hang-up leaves the process alive that removes what workers share.
    with interrupts.held_back():
        pool = _pool(environment, contract, jobs)
    try:
        yield pool
    except BaseException:
        # Ctrl-C reaches only this process when it is not typed into a terminal.
        for child in multiprocessing.active_children():
            if child.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGINT)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(environment: Environment, contract: Contract, jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        jobs,
        # A fork would share this process's connections.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(environment.handle(), contract),
    )


_environment: Environment
_contract: Contract
_hunting = False


def _begin(handle: dict[str, str], contract: Contract) -> None:
    global _environment, _contract
    for number in interrupts.SIGNALS:
        signal.signal(number, _interrupted)
    interrupts.let_in()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _environment, _contract = Environment.attach(handle), contract


def _end_with_parent() -> None:
    """End when the parent does, whatever ended it: nobody is left to say so, or to wait for."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    if _hunting:
        # What is being hunted has databases to drop, where their server is still there.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_FAREWELL_SECONDS)
    os._exit(EXIT_INFRASTRUCTURE)


def _hunt(mutant: Mutant, plan: Hunt) -> Outcome:
    global _hunting
    _hunting = True
    try:
        with foreseen():
            return hunt(_environment, _contract, mutant, plan)
    finally:
        _hunting = False


def _interrupted(signum: int, frame: FrameType | None) -> None:
    """Stop what is being hunted, which cleans up after itself; a worker that waits just waits."""
    del signum, frame
    if _hunting:
        raise KeyboardInterrupt
