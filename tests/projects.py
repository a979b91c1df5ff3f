"""Projects of a user's: a contract in a folder of its own, with strategies beside it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from tests.databases import ROOT

HEAD = "from invariants.generation import operation, rows\n"
ORDERLY = '@rows("tenants")\ndef tenant(world, tenant):\n    return {"id": tenant, "name": NAME}\n'


def named(name: str) -> str:
    """A module with a row strategy that gives every tenant this name."""
    return f"{HEAD}NAME = {name!r}\n{ORDERLY}"


def project_in(folder: Path, files: Mapping[str, str], modules: str = '["strategies"]') -> Path:
    """The contract of this schema in the folder, which is made, naming its own modules."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    text = (ROOT / "invariants.toml").read_text()
    mapping = "db/channel_mapping.yaml"
    text = text.replace('["strategies"]', modules).replace(mapping, str(ROOT / mapping))
    (folder / "invariants.toml").write_text(text)
    return folder / "invariants.toml"
