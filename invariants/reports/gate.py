"""What the gate writes: JSON for programs, JUnit XML for CI, Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from invariants.counterexamples.files import write
from invariants.escaping import code, row, shown
from invariants.escaping import markdown as escaped
from invariants.gate.release import Check, Gate
from invariants.reports.json_report import report_to_json

FORMAT = 1
_WORDS = {0: "passed", 1: "failed", 3: "not decided"}
# In a terminal: causes of one invariant before the rest of them is counted only.
_CAUSES_SHOWN = 3


def write_all(gate: Gate, folder: Path) -> None:
    """Write gate.json, gate.xml and gate.md. Raises `InfrastructureError`."""
    write(folder / "gate.json", json.dumps(to_json(gate), indent=2) + "\n")
    write(folder / "gate.xml", junit(gate))
    write(folder / "gate.md", markdown(gate))


def headline(gate: Gate) -> str:
    """The verdict and its reasons in one line."""
    reasons = [gate.fault] if gate.fault else []
    for group, words in (
        ("invariants", "{} of {} invariants violated"),
        ("counterexamples", "{} of {} kept counterexamples fail again"),
        ("migrations", "the chain of migrations fails in {} of {} ways"),
    ):
        mine = [c for c in gate.checks if c.group == group]
        if failed := sum(c.status == "failed" for c in mine):
            told = words.format(failed, len(mine))
            causes = sum(len(c.details) for c in mine if c.status == "failed")
            reasons.append(told + (f", {causes} causes" if group != "counterexamples" else ""))
    reasons += [
        f"{c.name}: {c.line}"
        for c in gate.checks
        if c.status == "error" or (c.status == "failed" and c.group in ("coverage", "mutants"))
    ]
    if not reasons:
        judged = [c for c in gate.checks if c.group == "invariants" and c.status == "passed"]
        known = len(gate.search.causes.known)
        held = f"no new cause, {known} known" if known else f"all {len(judged)} invariants held"
        reasons.append(held)
    return f"gate {_WORDS[gate.exit_status]}: {'; '.join(reasons)}"


def screen(gate: Gate) -> Iterator[str]:
    """What fits on one screen: verdict, causes, what was tried, what is not covered."""
    yield headline(gate)
    for check in gate.checks:
        if check.status == "failed" and check.group in ("invariants", "migrations"):
            yield ""
            yield f"{check.name}: {check.line}"
            for cause in check.details[:_CAUSES_SHOWN]:
                yield f"  {cause.partition(': ')[0]}"
            if len(check.details) > _CAUSES_SHOWN:
                yield f"  and {len(check.details) - _CAUSES_SHOWN} more"
    yield ""
    yield from (f"{label}: {text}" for label, text in tried(gate))
    missing = list(uncovered(gate))
    for line in missing[:_CAUSES_SHOWN]:
        yield f"not covered: {line}"
    if len(missing) > _CAUSES_SHOWN:
        yield f"not covered: {len(missing) - _CAUSES_SHOWN} more"


def tried(gate: Gate) -> Iterator[tuple[str, str]]:
    """What was done, as label and text."""
    search, invariants = gate.search, gate.search.invariants
    yield "schema", f"revision {search.revision}, PostgreSQL {search.server.version}"
    kept = [c for c in gate.checks if c.group == "counterexamples"]
    again = sum(c.status == "passed" for c in kept)
    yield "counterexamples", f"{again} of {len(kept)} kept ones hold"
    seeds = "the fixed seeds (known to hold) and " if gate.fixed_remembered else ""
    yield (
        "search",
        f"{sum(i.examples for i in invariants):,} workloads, "
        f"{sum(i.operations for i in invariants):,} operations, {seeds}seed {search.seed}",
    )
    for check in gate.checks:
        if check.group in ("coverage", "mutants", "baseline"):
            yield check.name, check.line
    yield "time", f"{gate.seconds:.0f} s"


def uncovered(gate: Gate) -> Iterator[str]:
    """What the verdict says nothing about."""
    yield from gate.search.coverage.gaps
    if gate.mutation:
        yield from (f"mutant {name} is not noticed" for name in gate.mutation.survivors)
    yield from (
        f"{c.name}: {c.line}"
        for c in gate.checks
        if c.status == "skipped" and c.group != "coverage"
    )


def markdown(gate: Gate) -> str:
    """A summary for the page of a CI job: verdict first."""
    parts = [f"# {escaped(headline(gate).capitalize())}"]
    failed = [c for c in gate.checks if c.status in ("failed", "error")]
    if failed:
        parts.append("## Causes")
    for group, title in (
        ("invariants", "{name}: {line}"),
        ("counterexamples", "kept counterexamples that fail again"),
        ("migrations", "{name}: {line}"),
        ("coverage", "{name}: {line}"),
        ("mutants", "{name}: {line}"),
    ):
        mine = [c for c in failed if c.group == group]
        if group == "counterexamples" and mine:
            parts += [f"### {title}", "\n".join(f"- {code(c.name)}" for c in mine)]
            continue
        for check in mine:
            parts.append("### " + escaped(title.format(name=check.name, line=check.line)))
            parts.append("\n".join(f"- {_told(d)}" for d in check.details) or escaped(check.line))
    parts += [
        "## What was tried",
        "\n".join(["| | |", "|---|---|", *(row(map(escaped, line)) for line in tried(gate))]),
        "| invariant | verdict | examples | operations | seconds |\n|---|---|--:|--:|--:|\n"
        + "\n".join(
            f"| {i.name} | {'no rule' if i.note else i.status} | {i.examples:,} | "
            f"{i.operations:,} | {i.seconds:.1f} |"
            for i in gate.search.invariants
        ),
        "## What is not covered",
        "\n".join(f"- {escaped(line)}" for line in uncovered(gate))
        or "Nothing that the catalog shows.",
    ]
    if gate.mutation and (counts := gate.mutation.document["counts"])["equivalent"]:
        parts.append(
            f"{counts['equivalent']} mutants are called equivalent, each with a reason "
            "that the database confirms (`mutants.toml`)."
        )
    return "\n\n".join(parts) + "\n"


def _told(detail: str) -> str:
    signature, colon, summary = detail.partition(": ")
    return f"{code(signature)}: {escaped(summary)}" if colon else escaped(detail)


def junit(gate: Gate) -> str:
    """JUnit XML: a suite for each group, a case for each check."""
    root = ElementTree.Element("testsuites", name="invariants gate")
    for group in dict.fromkeys(c.group for c in gate.checks):
        mine = [c for c in gate.checks if c.group == group]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=group,
            tests=str(len(mine)),
            failures=str(sum(c.status == "failed" for c in mine)),
            errors=str(sum(c.status == "error" for c in mine)),
            skipped=str(sum(c.status == "skipped" for c in mine)),
            time=f"{sum(c.seconds for c in mine):.3f}",
        )
        for check in mine:
            _case(suite, check)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, check: Check) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=check.group,
        name=shown(check.name),
        time=f"{check.seconds:.3f}",
    )
    tag = {"failed": "failure", "error": "error", "skipped": "skipped"}.get(check.status)
    if tag:
        # XML has no way to say most of what cannot be printed.
        told = ElementTree.SubElement(case, tag, message=shown(check.line))
        told.text = "\n".join(map(shown, check.details))


def to_json(gate: Gate) -> dict[str, Any]:
    """The gate as plain JSON values: a promise to users, to be extended and never changed."""
    mutation = gate.mutation
    return {
        "format": FORMAT,
        "verdict": _WORDS[gate.exit_status],
        "exit_status": gate.exit_status,
        "seconds": round(gate.seconds, 3),
        "headline": headline(gate),
        "checks": [
            {
                "group": c.group,
                "name": c.name,
                "status": c.status,
                "line": c.line,
                "seconds": round(c.seconds, 3),
                "details": list(c.details),
            }
            for c in gate.checks
        ],
        "search": report_to_json(gate.search),
        "counterexamples": [
            {"file": str(r.kept.path), "signature": r.kept.signature, "fails": r.fails}
            for r in gate.replayed
        ],
        "mutation": mutation
        and {
            "score": mutation.value,
            "threshold": mutation.threshold,
            "remembered": mutation.remembered,
            "counts": mutation.document["counts"],
            "survivors": mutation.survivors,
        },
    }
