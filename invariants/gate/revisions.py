"""Findings revision by revision: what a search finds at each, and which one mends what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from invariants import escaping
from invariants.checks import chosen
from invariants.contract.contract import load
from invariants.counterexamples.files import Kept
from invariants.errors import InfrastructureError, UsageError
from invariants.options import RunOptions
from invariants.search.events import InvariantFinished, Listener
from invariants.search.run import replay, schema, search_all, source

BEGIN, END = "<!-- invariants history -->", "<!-- end of invariants history -->"


@dataclass(frozen=True)
class Stage:
    """What came of one revision. `searched` is empty where no search was wanted."""

    revision: str
    title: str
    searched: tuple[InvariantFinished, ...]
    failing: tuple[Kept, ...]

    @property
    def causes(self) -> int:
        """How many causes the search found."""
        return sum(len(i.found) for i in self.searched)

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The invariants that the search could not judge."""
        return tuple(i.name for i in self.searched if i.status == "error")


def stages(
    options: RunOptions,
    since: str | None,
    kept: Sequence[Kept],
    *,
    search: bool,
    listener: Listener,
    say: Callable[[str], None],
) -> Iterator[Stage]:
    """Replay what is kept, and search, at each revision from `since` up to `options.revision`.

    `since` None stands for the oldest revision that the contract names. `options.seed` must be set:
    all revisions are searched alike. A counterexample that cannot be executed at some of them, for
    want of what it names, is replayed at the others. Raises `UsageError` and `InfrastructureError`.
    """
    assert options.seed is not None
    invariants = chosen(options.invariants) if search else ()
    wanted = _revisions(options, since)
    # What a revision does not have yet, or no longer, cannot be tried there; somewhere it must be.
    unfit: dict[Kept, UsageError] = {}
    tried: set[Kept] = set()
    named = source(options, load(options.contract)).at(wanted[-1]).read().titles
    for number, revision in enumerate(wanted, 1):
        say(f"revision {revision} ({number} of {len(wanted)}): {named[revision]}")
        at = replace(options, revision=revision, artifacts=options.artifacts / revision)
        with schema(at, lambda _: None) as (environment, contract):
            replayed = tuple(replay(kept, environment, contract, unfit.__setitem__))
            failing = tuple(o.kept for o in replayed if o.fails)
            tried |= {o.kept for o in replayed}
            searched = tuple(
                search_all(invariants, at, options.seed, environment, contract, listener)
            )
        if fault := next((i.fault for i in searched if i.fault), None):
            raise InfrastructureError(f"revision {revision}: {fault}")
        if number == len(wanted) and (never := [k for k in kept if k not in tried]):
            raise UsageError(f"at none of these revisions can it be executed: {unfit[never[0]]}")
        yield Stage(revision, named[revision], searched, failing)


def mended_by(found: Sequence[Stage]) -> dict[Kept, str | None]:
    """For each kept counterexample that fails somewhere: the revision from which on it holds."""
    mended: dict[Kept, str | None] = {}
    for stage, following in zip(found, [*found[1:], None], strict=True):
        for kept in stage.failing:
            mended[kept] = following.revision if following else None
    return mended


def markdown(found: Sequence[Stage]) -> str:
    """Two tables: what is left at each revision, and which revision mends which counterexample."""
    names = [i.name for i in found[0].searched]
    mended = mended_by(found)
    rows = [
        (
            escaping.code(stage.revision),
            escaping.markdown(stage.title),
            *([str(stage.causes) + ("?" if stage.unjudged else "")] if names else []),
            *(_count(i) for i in stage.searched),
            str(len(stage.failing)),
            str(sum(revision == stage.revision for revision in mended.values()) or ""),
        )
        for stage in found
    ]
    head = ("revision", "what it does", *(["found"] if names else []), *names, "kept", "mended")
    parts = [_table(head, rows, numbers_from=2)]
    if mended:
        # In the order of the chain; what nothing mends comes first.
        last = sorted(mended.items(), key=lambda m: (m[1] or "", m[0].path.name))
        parts.append(
            _table(
                ("kept counterexample", "mended by"),
                [
                    (escaping.code(k.path.stem), escaping.code(by) if by else "nothing yet")
                    for k, by in last
                ],
                numbers_from=2,
            )
        )
    return "\n\n".join(parts)


def ensure_marked(path: Path) -> None:
    """Raises `UsageError` unless the file has the two comments between which tables are put."""
    _divided(path)


def update(path: Path, text: str) -> None:
    """Put the text between the two comments of the file. Raises `UsageError`."""
    before, after = _divided(path)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def _divided(path: Path) -> tuple[str, str]:
    try:
        before, begun, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"--update {path}: cannot be read: {reason}; name another file") from None
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise UsageError(f"--update {path}: put the lines {BEGIN} and {END} where tables belong")
    return before, after


def _revisions(options: RunOptions, since: str | None) -> Sequence[str]:
    contract = load(options.contract)
    chain = source(options, contract)
    last = chain.read().lineage
    if since is None:
        named = [chain.at(r).read().lineage.applied[-1] for r in contract.revisions.values()]
        since = min(named, key=last.known.index, default=last.applied[0])
    try:
        first = chain.at(contract.revisions.get(since, since)).read().lineage.applied[-1]
    except UsageError as error:
        raise UsageError(str(error).replace("--revision", "--since", 1)) from None
    if first not in last.applied:
        raise UsageError(f"--since {since}: does not come before --revision {options.revision}")
    return last.applied[last.applied.index(first) :]


def _count(finished: InvariantFinished) -> str:
    return "?" if finished.status == "error" else str(len(finished.found) or "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int) -> str:
    rule = ["---" if n < numbers_from else "--:" for n in range(len(head))]
    return "\n".join(map(escaping.row, (head, rule, *rows)))
