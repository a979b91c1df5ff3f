"""Hunts mutants on all cores: one process each, with clones of one template.

Roles belong to the server, so mutants of roles are hunted last, one at a time, when nothing else
runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from types import FrameType

from invariants.contract.contract import Contract
from invariants.errors import InfrastructureError
from invariants.mutants.base import Mutant
from invariants.mutants.hunt import Hunt, Outcome, hunt
from invariants.servers.environment import Environment

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
    pool = ProcessPoolExecutor(
        jobs,
        # A fork would share this process's connections.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(environment.handle(), contract),
    )
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


_environment: Environment
_contract: Contract
_hunting = False


def _begin(handle: dict[str, str], contract: Contract) -> None:
    global _environment, _contract
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)
    _environment, _contract = Environment.attach(handle), contract


def _hunt(mutant: Mutant, plan: Hunt) -> Outcome:
    global _hunting
    _hunting = True
    try:
        return hunt(_environment, _contract, mutant, plan)
    finally:
        _hunting = False


def _interrupted(signum: int, frame: FrameType | None) -> None:
    """Stop what is being hunted, which cleans up after itself; a worker that waits just waits."""
    del signum, frame
    if _hunting:
        raise KeyboardInterrupt
