"""Where PostgreSQL comes from: a container, the embedded package, or a server that is there.

May know of the chain that fills a template; of no contract, and of nothing that is sent later.
"""

from __future__ import annotations

from invariants.servers.base import Server, ServerInfo
from invariants.servers.choose import open_server

__all__ = ["Server", "ServerInfo", "open_server"]
