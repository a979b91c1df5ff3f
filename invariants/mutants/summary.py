"""The score in one line and as JSON: what programs read, and what the gate remembers."""

from __future__ import annotations

from typing import Any

from invariants.mutants.hunt import Outcome
from invariants.mutants.score import Score

FORMAT = 1


def score_to_json(score: Score) -> dict[str, Any]:
    """The score as plain JSON values. What is in it is a promise to users: extend, never change."""
    return {
        "format": FORMAT,
        "server": {"kind": score.server.kind, "version": score.server.version},
        "revision": score.revision,
        "seed": score.seed,
        "seconds": round(score.seconds, 3),
        "score": round(score.value, 6),
        "counts": {s: len(score.having(s)) for s in ("killed", "survived", "equivalent", "error")},
        "median_fuzzing_seconds": round(score.fuzzing_median, 3),
        "matrix": score.matrix,
        "mutants": [_mutant(o) for o in score.outcomes],
    }


def _mutant(outcome: Outcome) -> dict[str, Any]:
    kill = outcome.kill
    saved = kill and kill.saved
    document = {
        "name": outcome.mutant.name,
        "operator": outcome.mutant.operator,
        "status": outcome.status,
        "examples": outcome.examples,
        "seconds": round(outcome.seconds, 3),
        "killed_by": kill and kill.invariant,
        "signature": kill and kill.signature,
        "summary": kill and kill.summary,
        "operations": kill and kill.operations,
        "json": str(saved.json) if saved else None,
        "sql": str(saved.sql) if saved else None,
        "reason": outcome.reason,
        "error": outcome.error,
        "statements": list(outcome.mutant.statements),
    }
    if saved and saved.spec:
        document["spec"] = str(saved.spec)
    return document


def verdict(score: Score) -> str:
    """The score in one line."""
    killed, survived = len(score.having("killed")), len(score.having("survived"))
    equivalent, wrong = len(score.having("equivalent")), len(score.having("error"))
    parts = [f"{killed} of {killed + survived} mutants killed ({score.value:.1%})"]
    if survived:
        parts.append(f"{survived} survived")
    if equivalent:
        parts.append(f"{equivalent} equivalent ({score.equivalent_share:.1%} of all)")
    if wrong:
        parts.append(f"{wrong} not judged")
    return ", ".join(parts)
