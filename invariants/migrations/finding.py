"""What a step did that it must not: one cause, with the data that show it and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from invariants.workload.operations import Workload

Kind = Literal["upgrade", "data", "downgrade", "owner", "chain", "locks", "clients", "killed"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PROMISES: dict[Kind, str] = {
    "upgrade": "An upgrade does not fail on data that the contract permits.",
    "data": "Every row is there after an upgrade, with the values that it had.",
    "downgrade": "A downgrade takes what was written since, and loses what the contract says.",
    "owner": "It does not matter who migrates.",
    "chain": "There is one head, and every downgrade undoes its upgrade.",
    "locks": "No table is rewritten or scanned while clients wait for it.",
    "clients": "What was permitted to clients of the revision before stays permitted.",
    "killed": "A migration that is killed midway can be run again.",
}


@dataclass(frozen=True)
class Finding:
    """One cause. `workload` is what has to be in the database before: none where no row matters."""

    kind: Kind
    revision: str
    where: str
    summary: str
    remedy: str
    details: tuple[str, ...] = ()
    workload: Workload | None = None
    # The revision at which the workload is sent.
    loaded_at: str | None = None
    # A table and the key of a row that shows it, where one is known: what reduction tries first.
    hint: tuple[str, Mapping[str, str | None]] | None = None
    # Whether it is that the step fails, so that its exit status is the verdict.
    fails: bool = False

    @property
    def signature(self) -> str:
        """What tells it from others, from run to run."""
        return "/".join(("migrations", self.kind, self.revision, *filter(None, [self.where])))
