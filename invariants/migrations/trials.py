"""What is tried of a step, in which order, and which kinds of failure each trial can find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from invariants.migrations import chain, clients, data, killed, locks, owner, partitions
from invariants.migrations.finding import Finding, Kind
from invariants.migrations.stage import Stage
from invariants.workload.operations import Workload

Trial = Callable[[Stage], Iterator[Finding]]
Again = Callable[[Stage, Finding, Workload], bool]

UPWARDS: frozenset[Kind] = frozenset({"upgrade", "data", "downgrade", "chain"})
"""What taking rows up the step, and down again, can find (`data.upwards`)."""

# Each on clones of its own; before a database is kept at the revision, and after.
BEFORE: Sequence[tuple[Trial, frozenset[Kind]]] = (
    (data.written_since, frozenset({"downgrade"})),
    (locks.blocking, frozenset({"locks"})),
    (killed.midway, frozenset({"killed"})),
)
AFTER: Sequence[tuple[Trial, frozenset[Kind]]] = (
    (chain.models, frozenset({"chain"})),
    (partitions.unguarded, frozenset({"data"})),
    (clients.broken, frozenset({"clients"})),
    (owner.alike, frozenset({"owner"})),
)
# Whether less data still show the same.
AGAIN: Mapping[Kind, Again] = {
    "upgrade": data.again,
    "data": data.again,
    "downgrade": data.again,
    "clients": clients.again,
    "owner": owner.again,
}
