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


# A shop's orders, each of one shop, and a role that may do everything with them.
SHOPS = """
DO $$ BEGIN CREATE ROLE clerk NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE TABLE shops (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id uuid PRIMARY KEY, shop_id uuid NOT NULL REFERENCES shops, what text);
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_shop ON orders
    USING (shop_id = nullif(current_setting('app.shop', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO clerk;
"""
OF_SHOPS = """
format = 1
[tenancy]
root = "shops"
column = "shop_id"
setting = "app.shop"
tables = ["orders"]
[roles.clerk]
orders = ["select", "insert", "update", "delete"]
[[accepted]]
channel = "primary-key-collision"
reason = "ids are drawn by lot"
"""


def shops_in(folder: Path, schema: str = "", contract: str = "") -> list[str]:
    """The shops, with more SQL or another contract, and the options that a command needs."""
    folder.mkdir(exist_ok=True)
    (folder / "schema.sql").write_text(SHOPS + schema)
    (folder / "invariants.toml").write_text(contract or OF_SHOPS)
    return [
        *("--schema", str(folder / "schema.sql"), "--contract", str(folder / "invariants.toml")),
        *("--server", "embedded", "--sessions", "0"),
    ]
