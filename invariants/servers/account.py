"""The operating system account PostgreSQL runs under: ours, or `nobody` when we are root."""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invariants.errors import InfrastructureError

UNPRIVILEGED = "nobody"


@dataclass(frozen=True)
class Account:
    """Who the server runs as. `switch` is true when that is somebody else than we are."""

    uid: int
    gid: int
    switch: bool

    @property
    def spawn(self) -> dict[str, Any]:
        """Keyword arguments that make subprocess start a child as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def reaches(self, path: Path, *, write: bool = False) -> bool:
        """Whether the account can read and enter `path` (and create files in it)."""
        test = 'test -r "$1" && test -x "$1"' + (' && test -w "$1"' if write else "")
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", test, "sh", str(path)],
                cwd="/",
                check=False,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **self.spawn,
            )
        except OSError as error:
            raise InfrastructureError(
                f"cannot switch to the account {UNPRIVILEGED} ({error.strerror}), and PostgreSQL "
                "refuses to run as root; run as an ordinary user or give --server URL"
            ) from error
        return done.returncode == 0


def server_account() -> Account:
    """Return the account for the server. Raises InfrastructureError for root without `nobody`."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise InfrastructureError(
            f"PostgreSQL refuses to run as root and there is no account {UNPRIVILEGED}; "
            "run as an ordinary user or give --server URL"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, switch=True)
