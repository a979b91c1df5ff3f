"""Seconds from starting the command to the outcome of the first operation, cold and warm.

Each run is a fresh Python process that runs `invariants run` as a user does, and is interrupted
once the server has answered the first operation. Cold: the cache of binaries and migrated templates
and Hypothesis's own are empty. Warm: they are as the cold run left them. Files may well be in the
system's memory both times, and Python's compiled modules are there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import brief, machine, middle, over, spread, table
from invariants import options

_LIMITS_SECONDS = {"cold": 8, "warm": 2}
_STAGES = ("python", "imports", "server", "operation")
_MARK = "benchmarks.startup: "

Stages = dict[str, float]


def main(argv: Sequence[str] | None = None) -> int:
    """Start the command again and again and print how long it took."""
    parser = argparse.ArgumentParser("python -m benchmarks.startup", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--runs", type=options.positive, default=5, metavar="N", help="of each (default: 5)"
    )
    parser.add_argument("--server", default="embedded", help="(default: embedded)")
    parser.add_argument("--revision", default="documented", help="(default: documented)")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    brief(parser, runs=1)
    given = parser.parse_args(argv)
    command = ["run", "-q", "--server", given.server, "--revision", given.revision]
    if given.once:
        return _stamped(command)
    print(f"{given.server}, revision {given.revision}; {machine()}")
    runs: dict[str, list[Stages]] = {"cold": [], "warm": []}
    again = [sys.executable, "-m", "benchmarks.startup", "--once", *command[2:]]
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory(prefix="startup-") as name:
            # The server has a user of its own when we are root.
            Path(name).chmod(0o755)
            for kind in runs:
                stages = _start(again, Path(name))
                if stages is None:
                    return 3
                runs[kind].append(stages)
    print(report(runs))
    return 0


def report(runs: dict[str, list[Stages]]) -> str:
    """Seconds to the first operation, with what was reached on the way, as medians."""
    head = ("seconds until", *_STAGES[:-1], "first operation (min to max)", "wanted")
    rows = [
        (
            kind,
            *(middle((s[stage] for s in stages), 2) for stage in _STAGES[:-1]),
            spread(s["operation"] for s in stages),
            f"<= {_LIMITS_SECONDS[kind]}",
        )
        for kind, stages in runs.items()
    ]
    ratio = spread(
        over(cold["operation"], warm["operation"])
        for cold, warm in zip(runs["cold"], runs["warm"], strict=True)
    )
    return f"{table(head, rows)}\ncold over warm: {ratio}"


def _start(command: list[str], folder: Path) -> Stages | None:
    """One run, with its caches in `folder`; None when it failed, which it has then said itself."""
    environment = {
        **os.environ,
        "INVARIANTS_CACHE_DIR": str(folder / "cache"),
        "INVARIANTS_FAILED": str(folder / "examples"),
        "INVARIANTS_ARTIFACTS": str(folder / "artifacts"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
    }
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            stamps: Stages = json.loads(line.removeprefix(_MARK))
            return {stage: stamp - started for stage, stamp in stamps.items()}
    print(done.stdout + done.stderr, file=sys.stderr)
    return None


def _stamped(command: list[str]) -> int:
    """Be the command, note when it reaches what, and stop at the first operation's outcome."""
    stamps = {"python": time.monotonic()}

    import invariants.search.run
    from invariants.execution.executor import Executor
    from invariants.front.cli import main as invariants_main

    def noting(before: str, after: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **options: Any) -> Any:
            stamps.setdefault(before, time.monotonic())
            made = call(*args, **options)
            stamps.setdefault(after, time.monotonic())
            return made

        return noted

    execute = Executor.run

    def run_once(*args: Any, **options: Any) -> Any:
        history = execute(*args, **options)
        if history.steps:
            stamps["operation"] = time.monotonic()
            print(_MARK + json.dumps(stamps), flush=True)
            raise KeyboardInterrupt
        return history

    names = vars(invariants.search.run)
    names["open_environment"] = noting("imports", "server", names["open_environment"])
    Executor.run = run_once  # type: ignore[method-assign]
    return invariants_main(command)


if __name__ == "__main__":
    sys.exit(main())
