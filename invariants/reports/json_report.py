"""The JSON form of a report. What is in it is a promise to users: extend it, change nothing."""

from __future__ import annotations

from typing import Any

from invariants.search.baseline import Baseline
from invariants.search.events import Found
from invariants.search.run import Report

FORMAT = 1


def report_to_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON values."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "server": {
            "kind": report.server.kind,
            "version": report.server.version,
            "reason": report.server.reason,
        },
        "revision": report.revision,
        "seed": report.seed,
        "profile": report.profile,
        "seconds": round(report.seconds, 3),
        "invariants": [
            {
                "name": i.name,
                "status": i.status,
                "examples": i.examples,
                "operations": i.operations,
                "seconds": round(i.seconds, 3),
                "error": i.error,
                "examined": i.examined,
                "note": i.note,
                "not_reached": [u.to_json() for u in i.unreached],
                "cut_short": list(i.unswept),
                "counterexamples": [_found(f, report.known) for f in i.found],
                "flaky": [{"signature": f.signature, "files": list(f.saved)} for f in i.flaky],
            }
            for i in report.invariants
        ],
        "coverage": report.coverage.to_json(),
        "not_reached": [u.to_json() for u in report.unreached],
        "exit_status": report.exit_status,
    }
    if report.known is not None:
        causes = report.causes
        document["baseline"] = {
            "file": str(report.known.path),
            "known": [{"signature": s, "reason": report.known.reasons[s]} for s in causes.known],
            "new": list(causes.new),
            "gone": list(causes.gone),
        }
    return document


def _found(found: Found, known: Baseline | None = None) -> dict[str, Any]:
    made = found.counterexample
    document: dict[str, Any] = {
        "signature": made.signature,
        "summary": made.summary,
        "operations": made.operations,
        "sessions": made.sessions,
        "json": str(found.saved.json) if found.saved else None,
        "sql": str(found.saved.sql) if found.saved else None,
    }
    if found.saved and found.saved.spec:
        document["spec"] = str(found.saved.spec)
    if known is not None:
        document["known"] = made.signature in known.reasons
    return document
