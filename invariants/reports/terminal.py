"""What a run looks like in a terminal: a line that moves, findings as they come, then a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from invariants.coverage.unreached import unreached_lines
from invariants.escaping import lines, shown
from invariants.search.baseline import Baseline, invariant_of
from invariants.search.events import (
    Event,
    Flaky,
    Found,
    InvariantFinished,
    InvariantStarted,
    PassedOver,
    Progress,
)
from invariants.search.run import Replayed, Report

if TYPE_CHECKING:
    from invariants.gate.release import Gate
    from invariants.mutants.hunt import Outcome
    from invariants.mutants.score import Score

_MARKS = {"held": ("held", "green"), "violated": ("violated", "red"), "error": ("error", "yellow")}
# The contract says nothing that such an invariant could check.
_NO_RULE = ("no rule", "dim")
# All that was found is in the baseline.
_KNOWN = ("known", "yellow")
_PLAIN_EVERY_SECONDS = 10.0


class _Console(Console):
    """Takes text as text: names of a schema are no markup, no emoji, and steer no terminal."""

    def __init__(self, stderr: bool) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(lines(text), **options)


class Terminal:
    """A listener that writes for people: findings to standard output, progress to standard error.

    `quiet` leaves out progress and stories and keeps the verdicts; `brief` leaves out findings,
    which a report tells later. `aside` writes all of it to standard error. Of causes that are
    `known` there is a line each. Colour and the moving line appear only where the stream is a
    terminal.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        brief: bool = False,
        aside: bool = False,
        schema_arguments: str = "",
        known: Baseline | None = None,
    ) -> None:
        self.brief, self.known = brief, known
        self.quiet, self.schema_arguments = quiet, schema_arguments
        self.out, self.err = _Console(aside), _Console(True)
        self._status = self.err.status("") if self.err.is_terminal and not quiet else None
        self._told = 0.0
        self._begun = 0.0
        self._statuses: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._still()

    def say(self, line: str) -> None:
        """A remark on the way."""
        if not self.quiet:
            self.err.print(line, style="dim")

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case InvariantStarted(name):
                self._told = 0.0
                if self._status:
                    self._status.update(Text(f"{name}: starting"))
                    self._status.start()
            case Progress():
                self._progress(event)
            case PassedOver(why):
                self._still()
                self.say(f"not tried again: {why}")
            case Found():
                self._found(event)
            case Flaky():
                self._still()
                self.out.print(
                    f"FLAKY {shown(event.signature)}: failed once, not again on a fresh database",
                    style="yellow",
                )
                if not self.quiet:
                    self.out.print(event.text)
            case InvariantFinished():
                self._still()
                self._finished(event)

    def verdict(self, report: Report) -> None:
        """The table at the end, and one line that says it all."""
        table = Table(box=None, pad_edge=False)
        for column in (
            "invariant",
            "verdict",
            "causes",
            "examples",
            "operations",
            "op/s",
            "seconds",
        ):
            table.add_column(
                column, justify="left" if column in ("invariant", "verdict") else "right"
            )
        for i in report.invariants:
            word, colour = self._mark(i)
            table.add_row(
                i.name,
                Text(word, colour),
                str(len(i.found)),
                f"{i.examples:,}",
                f"{i.operations:,}",
                f"{i.operations / max(i.seconds, 0.001):,.0f}",
                f"{i.seconds:.1f}",
            )
        self.out.print()
        self.out.print(table)
        violated = {invariant_of(s) for s in report.causes.new}
        errors = [i for i in report.invariants if i.status == "error"]
        seconds = f"{report.seconds:.0f} s"
        where = (
            f"revision {report.revision}, PostgreSQL {report.server.version}, seed {report.seed}"
        )
        if violated:
            line = (
                f"{len(violated)} of {len(report.invariants)} invariants violated, "
                f"{len(report.causes.new)} {'new ' if report.known else ''}causes"
            )
            self.out.print(f"\n{line} ({where}, {seconds})", style="bold red")
        elif errors or report.unreached:
            named = ", ".join(e.name for e in errors) or "what was not reached"
            self.out.print(f"\nnot judged: {named} ({where})", style="bold yellow")
        else:
            judged = [i for i in report.invariants if not i.note]
            known = len(report.causes.known)
            line = f"no new cause, {known} known" if known else f"all {len(judged)} invariants held"
            self.out.print(f"\n{line} ({where}, {seconds})", style="bold green")
        for line in unreached_lines(report.unreached):
            self.out.print(shown(line), style="bold yellow" if line.endswith(":") else "yellow")
        if report.known:
            for signature in report.causes.gone:
                self.out.print(shown(report.known.told_gone(signature)), style="yellow")
        if not self.quiet:
            for told in report.coverage.lines:
                self.out.print(shown(told))
            if report.unswept:
                listed = ", ".join(report.unswept)
                self.out.print(f"cut short by the budget: {listed}; raise --time-budget")

    def replayed(self, outcome: Replayed) -> None:
        """What came of one replay."""
        word, colour = ("fails", "bold red") if outcome.fails else ("holds", "green")
        self.out.print(
            Text(word, style=colour).append(
                f"  {shown(str(outcome.kept.path))}", style="not bold default"
            )
        )
        if outcome.fails and not self.quiet:
            self.out.print(outcome.text)

    def gated(self, gate: Gate, folder: Path) -> None:
        """The gate's verdict, so that it fits on one screen."""
        # Here, because a run has no use for it.
        from invariants.reports.gate import screen

        head, *rest = screen(gate)
        style = {0: "bold green", 1: "bold red"}.get(gate.exit_status, "bold yellow")
        self.out.print(head, style=style)
        if not self.quiet:
            for line in (*rest, "", f"report: {folder}/gate.md, gate.json, gate.xml"):
                self.out.print(shown(line))

    def hunted(self, outcome: Outcome, done: int, total: int, *, verbose: bool = False) -> None:
        """One mutant is decided; survivors are told at once."""
        self._begun = self._begun or time.monotonic() - outcome.seconds
        seconds = time.monotonic() - self._begun
        self._statuses[outcome.status] = self._statuses.get(outcome.status, 0) + 1
        told = ", ".join(f"{n:,} {word}" for word, n in sorted(self._statuses.items()))
        left = seconds / done * (total - done)
        line = f"{done:,} of {total:,} mutants: {told}, {left:.0f} s left"
        loud = outcome.status in ("survived", "error")
        if (loud or verbose) and not self.quiet:
            self._still()
            by = f" by {outcome.kill.invariant}" if outcome.kill else ""
            self.out.print(
                f"{outcome.status}{by}  {shown(outcome.mutant.name)}  "
                f"{outcome.examples:,} examples, {outcome.seconds:.1f} s",
                style="red" if loud else None,
            )
        if self._status:
            self._status.update(Text(line))
            self._status.start()
            if done == total:
                self._still()
        elif not self.quiet and seconds - self._told >= _PLAIN_EVERY_SECONDS:
            self._told = seconds
            self.err.print(line)

    def scored(self, score: Score, file: Path) -> None:
        """The score: what was not noticed, then which invariant kills what, then one line."""
        from invariants.mutants.summary import verdict
        from invariants.reports.mutants import matrix, survivors

        self._still()
        for line in survivors(score):
            self.out.print(shown(line), style="bold red")
        if not self.quiet:
            self.out.print()
            self.table(*matrix(score))
            self.out.print(f"\nevery mutant: {file}")
        where = f"revision {score.revision}, PostgreSQL {score.server.version}, seed {score.seed}"
        self.out.print(
            f"\n{verdict(score)} ({where}, {score.seconds:.0f} s, half of the kills within "
            f"{score.fuzzing_median:.1f} s)",
            style="bold green" if score.exit_status == 0 else "bold red",
        )

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table, however wide; every column but the first holds numbers."""
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            cells = [
                c.rjust(w) if n else c.ljust(w)
                for n, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            self.out.print("  ".join(cells).rstrip())

    def _progress(self, event: Progress) -> None:
        rate = event.operations / event.seconds if event.seconds else 0
        left = "" if event.seconds_left is None else f", {event.seconds_left:.0f} s left"
        line = (
            f"{event.name}: {event.examples:,} examples, {event.operations:,} operations, "
            f"{rate:,.0f}/s{left}" + (", reducing" if event.doing == "reducing" else "")
        )
        if self._status:
            self._status.update(Text(line))
        elif not self.quiet and event.seconds - self._told >= _PLAIN_EVERY_SECONDS:
            self._told = event.seconds
            self.err.print(line)

    def _found(self, event: Found) -> None:
        if self.brief:
            return
        self._still()
        made = event.counterexample
        if self.known and made.signature in self.known.reasons:
            self.out.print(f"known    {shown(self.known.told(made.signature))}", style="yellow")
            return
        self.out.print()
        self.out.print(f"VIOLATED {shown(made.signature)}", style="bold red")
        if self.quiet:
            return
        self.out.print(made.text)
        if event.saved:
            commands = event.saved.replay_commands(self.schema_arguments)
            for word, command in zip_longest(("Replay",), commands, fillvalue=""):
                self.out.print(f"{word:<9} {command}", style="cyan")
        if self._status:
            self._status.start()

    def _finished(self, event: InvariantFinished) -> None:
        if self.brief and self.quiet:
            return
        word, colour = self._mark(event)
        line = Text(f"{event.name}: ").append(word, style=colour)
        if event.found:
            line.append(f", {len(event.found)} causes")
        if remark := event.error or event.note:
            line.append(f": {shown(remark)}")
        if not (self.quiet or self.brief):
            self.out.print()
        self.out.print(line)

    def _mark(self, event: InvariantFinished) -> tuple[str, str]:
        if event.note:
            return _NO_RULE
        found = [f.counterexample.signature for f in event.found]
        if found and self.known and self.known.reasons.keys() >= set(found):
            return _KNOWN
        return _MARKS[event.status]

    def _still(self) -> None:
        if self._status:
            self._status.stop()
        sys.stderr.flush()
