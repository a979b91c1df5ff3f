"""A reduced workload with its violation, and the files it is kept as.

`NAME.json` is the exact replay, `NAME.sql` a script for psql alone, `NAME.txt` what the terminal
showed. Where sessions go on side by side the script is one for several windows, and `NAME.spec`
says the same to PostgreSQL's isolation tester.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from invariants.checks.base import Case, Violation
from invariants.counterexamples import fitting
from invariants.counterexamples.narration import narrate, summarise
from invariants.counterexamples.script import script
from invariants.counterexamples.spec import spec
from invariants.counterexamples.windows import windows
from invariants.errors import InfrastructureError, UsageError
from invariants.reading import Misfit, Text, fit, quoted, read_json
from invariants.workload.format import Name, WorkloadFile, workload_from_file, workload_to_json
from invariants.workload.operations import Workload

FORMAT = 1


@dataclass(frozen=True)
class Counterexample:
    """What was found: a 1-minimal workload, and the story, script and summary of its violation.

    `spec` is empty where nothing goes on side by side.
    """

    invariant: str
    signature: str
    summary: str
    workload: Workload
    text: str
    script: str
    seed: int | None = None
    revision: str = ""
    spec: str = ""

    @property
    def operations(self) -> int:
        """How many operations there are, those of the sessions included."""
        return len(self.workload.all_operations)

    @property
    def sessions(self) -> int:
        """How many sessions it takes."""
        return max(1, len(self.workload.sessions))

    @property
    def name(self) -> str:
        """The file name without its ending: the signature, in letters any file system takes."""
        slug = re.sub(r"[^a-z0-9_]+", "-", self.signature.lower().replace("/", "--"))
        return re.sub(r"(?<!-)-(?!-)", "-", slug).strip("-")[:150]


def counterexample(
    case: Case, violation: Violation, *, seed: int | None = None, revision: str = ""
) -> Counterexample:
    """Tell and script the violation as it was seen in the case."""
    summary = summarise(case, violation)
    concurrent = bool(case.history.workload.sessions)
    return Counterexample(
        invariant=violation.signature.invariant,
        signature=str(violation.signature),
        summary=summary,
        workload=case.history.workload,
        text=narrate(case, violation),
        script=(windows if concurrent else script)(case, violation, summary),
        seed=seed,
        revision=revision,
        spec=spec(case, violation, summary) if concurrent else "",
    )


@dataclass(frozen=True)
class Saved:
    """Where a counterexample was written; `spec` only where it takes several sessions."""

    json: Path
    sql: Path
    txt: Path
    spec: Path | None = None
    sessions: int = 1

    def replay_commands(self, schema_arguments: str = "") -> tuple[str, ...]:
        """How to see it again: with this tool, and with psql alone, a window for each session."""
        json, sql = shlex.quote(str(self.json)), shlex.quote(str(self.sql))
        windows = [f"-v window={i + 1} " if self.spec else "" for i in range(self.sessions)]
        return (
            f"invariants replay{schema_arguments} {json}",
            *(f"psql -X -q {window}-d DATABASE -f {sql}" for window in windows),
        )


def ensure_writable(folder: Path, option: str = "--artifacts") -> None:
    """Make the folder if need be, before any work is done.

    Raises `UsageError` naming the option when nothing can be kept there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{option} {folder}: cannot be written ({error.strerror}); name another folder"
        ) from None


def save(found: Counterexample, folder: Path) -> Saved:
    """Write the files. Raises `InfrastructureError` when the disk refuses."""
    json = save_json(found, folder)
    sql, txt, spec = (json.with_suffix(ending) for ending in (".sql", ".txt", ".spec"))
    write(sql, found.script)
    write(txt, found.text + "\n")
    if found.spec:
        write(spec, found.spec)
    return Saved(json, sql, txt, spec if found.spec else None, found.sessions)


def save_json(found: Counterexample, folder: Path) -> Path:
    """Write the exact replay alone. Raises `InfrastructureError` when the disk refuses."""
    path = _place(found, folder)
    document = {
        "format": FORMAT,
        "invariant": found.invariant,
        "signature": found.signature,
        "summary": found.summary,
        "seed": found.seed,
        "revision": found.revision,
        "workload": workload_to_json(found.workload),
    }
    write(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return path


def _place(found: Counterexample, folder: Path) -> Path:
    """The name's file, unless it holds another cause: signatures differ in more than names do."""
    path = folder / f"{found.name}.json"
    try:
        taken: object = json.loads(path.read_text(encoding="utf-8"))["signature"]
    except (OSError, ValueError, KeyError, TypeError):
        return path
    if taken == found.signature:
        return path
    mark = hashlib.sha256(found.signature.encode(errors="backslashreplace")).hexdigest()[:8]
    return folder / f"{found.name}-{mark}.json"


def write(path: Path, text: str) -> None:
    """Write a file as a whole or not at all. Raises `InfrastructureError` naming the file.

    Through a link its target is written, and what is no regular file (a device, a pipe) stays what
    it is.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            os.fchmod(descriptor, 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InfrastructureError(
            f"{path}: cannot be written ({error.strerror}); name another place"
        ) from None


@dataclass(frozen=True)
class Kept:
    """A counterexample as read from its JSON file. `revision` is the one it was found at."""

    path: Path
    invariant: str
    signature: str
    workload: Workload
    revision: str = ""


_REMEDY = "name a counterexample's .json that a run wrote"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as it is written; `summary` and `seed` are for people."""

    format: int
    invariant: Name
    signature: Name
    workload: WorkloadFile
    summary: Text = ""
    seed: int | None = None
    revision: Text = ""


def _workload(file: WorkloadFile) -> Workload:
    try:
        fitting.check_premise(file.premise)
        return workload_from_file(file)
    except Misfit as misfit:
        raise misfit.under("workload") from None


def load(path: Path) -> Kept:
    """Read a counterexample file. Raises `UsageError` naming the file and the place in it.

    Whether a schema has what it names is asked by `fitting.check`.
    """
    document = read_json(path, _REMEDY)
    if isinstance(document, dict) and "format" in document:
        told = document["format"]
        if type(told) is not int or told != FORMAT:
            raise UsageError(
                f"{path}: format: {quoted(told)} is not known; this version reads format {FORMAT}"
            )
    try:
        file = fit(document, _File)
        workload = _workload(file.workload)
    except Misfit as misfit:
        raise UsageError(f"{path}: not a counterexample: {misfit}") from None
    return Kept(path, file.invariant, file.signature, workload, file.revision)
