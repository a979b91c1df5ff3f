"""Known causes: a file of signatures that do not fail a run, so that only new ones do.

People add a reason to each, and reasons are kept whenever the file is written anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomlkit

from invariants.checks import INVARIANTS
from invariants.errors import UsageError
from invariants.reading import Misfit, Text, fit, quoted, read_toml
from invariants.search.events import InvariantFinished

FORMAT = 1
_HEAD = """\
# Known causes: `invariants run --baseline {name}` lists them and fails for others alone.
# `invariants baseline` writes this file anew: what is found no more goes, reasons stay.
"""


@dataclass(frozen=True)
class Compared:
    """The causes that searches found, those known apart, and known ones that are not there now."""

    known: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True)
class Baseline:
    """What a file says: the signature of every known cause, with the reason why it may stay."""

    path: Path
    reasons: Mapping[str, str] = field(default_factory=dict)

    def compared(self, found: Iterable[str], judged: Iterable[str]) -> Compared:
        """What is known of the signatures found, where the invariants `judged` were searched."""
        there = dict.fromkeys(found)
        of = set(judged)
        return Compared(
            tuple(s for s in there if s in self.reasons),
            tuple(s for s in there if s not in self.reasons),
            tuple(s for s in self.reasons if s not in there and invariant_of(s) in of),
        )

    def told(self, signature: str) -> str:
        """A known cause in a line."""
        reason = self.reasons[signature]
        return f"{signature}: {reason}" if reason else signature

    def told_gone(self, signature: str) -> str:
        """That a known cause was not found, in a line."""
        return f"gone     {signature}: not found; `invariants baseline` takes it out of {self.path}"


def invariant_of(signature: str) -> str:
    """The invariant that a signature begins with."""
    return signature.partition("/")[0]


def signatures(finished: Sequence[InvariantFinished]) -> tuple[str, ...]:
    """The causes that searches found."""
    return tuple(f.counterexample.signature for i in finished for f in i.found)


def judged(finished: Sequence[InvariantFinished]) -> tuple[str, ...]:
    """The invariants that were searched to the end: what they did not find is not there."""
    return tuple(i.name for i in finished if not i.fault and i.status != "error")


class _Known(msgspec.Struct, forbid_unknown_fields=True):
    signature: Annotated[Text, msgspec.Meta(min_length=1)]
    reason: Text = ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal[1]
    schema: Text = ""
    known: tuple[_Known, ...] = ()


def read(path: Path) -> Baseline:
    """Read the file. Raises `UsageError` naming the fault."""
    document = read_toml(path, "write it with `invariants baseline`")
    try:
        entries = fit(document, _File).known
    except Misfit as misfit:
        raise misfit.of(path) from None
    reasons: dict[str, str] = {}
    for i, entry in enumerate(entries):
        place = f"{path}: known[{i}].signature: {quoted(entry.signature)}"
        if invariant_of(entry.signature) not in INVARIANTS:
            raise UsageError(f"{place} begins with none of: {', '.join(INVARIANTS)}; remove it")
        if entry.signature in reasons:
            raise UsageError(f"{place} is there twice; remove one")
        reasons[entry.signature] = " ".join(entry.reason.split())
    return Baseline(path, reasons)


def text(found: Iterable[str], before: Baseline, schema: str, chosen: Iterable[str]) -> str:
    """The file with the causes found, and those of invariants that were not asked.

    Whatever order they are found in, the text is the same.
    """
    of = set(chosen)
    kept = (s for s in before.reasons if invariant_of(s) not in of)
    lines = [_HEAD.format(name=before.path.name), f"format = {FORMAT}", f"schema = {_said(schema)}"]
    for signature in sorted({*found, *kept}):
        lines += ["", "[[known]]", f"signature = {_said(signature)}"]
        lines.append(f"reason = {_said(before.reasons.get(signature, ''))}")
    return "\n".join(lines) + "\n"


def _said(value: str) -> str:
    return tomlkit.item(value).as_string()
