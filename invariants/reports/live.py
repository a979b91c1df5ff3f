"""What `invariants drift`, `snapshot` and `audit` write: lines for people, JSON for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from invariants.escaping import shown

if TYPE_CHECKING:
    from invariants.live.audit import Audit
    from invariants.live.drift import Drift
    from invariants.reports.terminal import Terminal

_MARKS = {"missing": "red", "extra": "yellow", "changed": "red"}


def drift_to_json(drift: Drift) -> dict[str, Any]:
    """The result as plain JSON values."""
    return {
        "revision": drift.revision,
        "behind": drift.behind,
        "live": drift.versions[0],
        "ours": drift.versions[1],
        "differences": [asdict(d) for d in drift.differences],
    }


def told_drift(terminal: Terminal, drift: Drift) -> None:
    """Each difference by name, then one line that says it all."""
    out = terminal.out
    for d in drift.differences:
        out.print(f"{d.how:8} {shown(d.name)}", style=_MARKS[d.how])
        if not terminal.quiet:
            for word, lines in (("should be", d.expected), ("is", d.found)):
                for line in lines:
                    out.print(f"    {word:10} {shown(line)}")
    where = f"revision {shown(drift.revision)}, PostgreSQL {drift.versions[0]}"
    if drift.behind and not terminal.quiet:
        out.print(f"remark: {drift.behind} revisions of the chain come after it")
    if drift.differences and not drift.one_major:
        out.print(
            f"remark: compared with a server {drift.versions[1]}; a definition that differs in "
            "spelling alone may be printed differently by the two"
        )
    if count := len(drift.differences):
        word = "difference" if count == 1 else "differences"
        out.print(f"{count} {word} ({where})", style="bold red")
    else:
        out.print(f"as the chain makes it ({where})", style="bold green")


def audit_to_json(audit: Audit) -> dict[str, Any]:
    """The result as plain JSON values."""
    return {
        "tables": audit.tables,
        "answers": [
            {
                "kind": a.question.kind,
                "name": a.question.name,
                "status": "not judged" if a.unjudged else "amiss" if a.count else "fine",
                "rows": a.count,
                "keys": a.keys,
                "why": a.unjudged,
            }
            for a in audit.answers
        ],
    }


def told_audit(terminal: Terminal, audit: Audit) -> None:
    """What is amiss with its rows, what is not judged and why, then one line that says it all."""
    out = terminal.out
    for answer in audit.amiss:
        out.print(
            f"{shown(answer.question.name)}: {answer.count:,} {shown(answer.question.says)}",
            style="red",
        )
        if not terminal.quiet:
            for key in answer.keys:
                out.print(f"    {shown(key)}")
            if answer.count > len(answer.keys):
                out.print(f"    .. and {answer.count - len(answer.keys):,} more")
    for answer in audit.unjudged:
        out.print(
            f"{shown(answer.question.name)}: not judged: {shown(answer.unjudged)}", style="yellow"
        )
    asked = f"{len(audit.answers)} questions about {audit.tables} tables"
    verdict = f"{len(audit.amiss)} amiss" if audit.amiss else "nothing is amiss"
    if audit.unjudged:
        verdict += f", {len(audit.unjudged)} not judged"
    style = "bold red" if audit.amiss else "bold yellow" if audit.unjudged else "bold green"
    out.print(f"{verdict} ({asked})", style=style)
