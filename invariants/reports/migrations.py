"""What `invariants migrations` writes: the table of kinds for people, JSON for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from invariants.escaping import shown
from invariants.reports.json_report import report_to_json

if TYPE_CHECKING:
    from invariants.migrations.run import Result
    from invariants.reports.terminal import Terminal

_MARKS = {"held": "green", "violated": "red", "error": "yellow"}


def result_to_json(result: Result) -> dict[str, Any]:
    """The result as plain JSON values: as of a run, with the kinds in the place of invariants."""
    document = report_to_json(result.report)
    # What a search met is said of searches.
    del document["coverage"]
    document["steps"] = list(result.steps)
    document["accepted"] = [{"signature": a.signature, "reason": a.reason} for a in result.accepted]
    document["remarks"] = list(result.remarks)
    return document


def verdict(terminal: Terminal, result: Result) -> None:
    """The table at the end, what is accepted, and one line that says it all."""
    report = result.report
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "verdict", "causes", "tried", "seconds"):
        table.add_column(column, justify="left" if column in ("kind", "verdict") else "right")
    for i in report.invariants:
        word = "not tried" if i.note else i.status
        table.add_row(
            i.name,
            Text(word, "dim" if i.note else _MARKS[i.status]),
            str(len(i.found)),
            str(i.examples),
            f"{i.seconds:.1f}",
        )
    out = terminal.out
    out.print()
    out.print(table)
    if not terminal.quiet:
        for accepted in result.accepted:
            out.print(f"accepted: {shown(accepted.signature)}: {shown(accepted.reason)}")
        for remark in result.remarks:
            out.print(f"remark: {shown(remark)}")
    steps = f"{len(result.steps)} {'step' if len(result.steps) == 1 else 'steps'}"
    where = (
        f"{steps} up to {report.revision}, PostgreSQL {report.server.version}, seed {report.seed}"
        f", {report.seconds:.0f} s"
    )
    causes = sum(len(i.found) for i in report.invariants)
    errors = [i.name for i in report.invariants if i.status == "error"]
    if causes:
        out.print(f"\n{causes} causes ({where})", style="bold red")
    elif errors:
        out.print(f"\nnot judged: {', '.join(errors)} ({where})", style="bold yellow")
    else:
        out.print(f"\nthe chain is safe on what was tried ({where})", style="bold green")
