"""The mutation score for people: lines for a terminal, and Markdown with survivors first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from invariants import escaping
from invariants.checks import INVARIANTS
from invariants.mutants.base import OPERATORS
from invariants.mutants.score import Score
from invariants.mutants.summary import verdict


def survivors(score: Score) -> Iterator[str]:
    """A line for each mutant that nothing noticed, and for each that could not be judged."""
    for outcome in score.having("survived"):
        yield (
            f"SURVIVED {outcome.mutant.name}: {OPERATORS[outcome.mutant.operator]} "
            f"({outcome.examples:,} examples, {outcome.seconds:.0f} s)"
        )
    for outcome in score.having("error"):
        yield f"NOT JUDGED {outcome.mutant.name}: {outcome.error}"


def matrix(score: Score) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the kill matrix: operators by invariants."""
    names = [n for n in INVARIANTS if any(n in row for row in score.matrix.values())]
    head = ["operator", "mutants", *names, "equivalent", "survived"]
    rows = []
    for operator, killed in score.matrix.items():
        mine = [o for o in score.outcomes if o.mutant.operator == operator]
        count = {s: sum(o.status == s for o in mine) for s in ("equivalent", "survived")}
        rows.append(
            [
                operator,
                str(len(mine)),
                *(str(killed.get(n) or "") for n in names),
                str(count["equivalent"] or ""),
                str(count["survived"] or ""),
            ]
        )
    return head, rows


def markdown(score: Score) -> str:
    """Everything: verdict, survivors, kill matrix, equivalents by reason, every mutant."""
    parts = [
        f"# Mutants of revision {score.revision}",
        f"{verdict(score)}. PostgreSQL {score.server.version} ({score.server.kind}), "
        f"seed {score.seed}, {score.seconds:.0f} s; half of the kills within "
        f"{score.fuzzing_median:.1f} s of fuzzing.",
    ]
    if lines := list(survivors(score)):
        parts += ["## Not noticed", "\n".join(f"- {escaping.markdown(line)}" for line in lines)]
    head, rows = matrix(score)
    parts += ["## Which invariant kills what", table(head, rows)]
    reasons: dict[str, list[str]] = {}
    for outcome in score.having("equivalent"):
        reasons.setdefault(outcome.reason or "", []).append(outcome.mutant.name)
    if reasons:
        parts.append("## Equivalent")
        parts += [
            f"{escaping.shown(reason)}\n\n" + "\n".join(f"- {escaping.code(n)}" for n in names)
            for reason, names in reasons.items()
        ]
    parts += [
        "## Every mutant",
        table(
            ["mutant", "killed by", "examples", "seconds"],
            [
                [
                    escaping.code(o.mutant.name),
                    o.kill.invariant if o.kill else f"**{o.status}**",
                    f"{o.examples:,}",
                    f"{o.seconds:.1f}",
                ]
                for o in sorted(score.outcomes, key=lambda o: o.kill is not None)
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every column but the first two holds numbers."""
    rule = ["---" if n < 1 else "--:" for n in range(len(head))]
    return "\n".join(map(escaping.row, (head, rule, *rows)))
