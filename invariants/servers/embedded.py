"""A private PostgreSQL out of a Python package, on a Unix socket only.

The migrated cluster is cached as files: a run copies it and starts the copy, so nothing that a run
does, to roles or anything else, can reach the next one.
"""

from __future__ import annotations

import hashlib
import platform

from psycopg.conninfo import make_conninfo

from invariants.servers.account import Account, server_account
from invariants.servers.base import (
    SPEED_SETTINGS,
    Content,
    Say,
    Server,
    ServerInfo,
    connect,
    create_database,
)
from invariants.servers.binaries import Binaries, find_binaries, reachable
from invariants.servers.cache import Cache, CacheBusy, open_cache
from invariants.servers.connect import relying
from invariants.servers.marks import DATABASE_PREFIX
from invariants.servers.supervisor import Supervisor

TEMPLATE = f"{DATABASE_PREFIX}template"
# Counts up whenever what a cached cluster looks like changes.
CLUSTER_FORMAT = 1


class EmbeddedServer(Server):
    """A server of our own, gone with everything in it when closed."""

    def __init__(self, supervisor: Supervisor, info: ServerInfo) -> None:
        super().__init__()
        self._supervisor = supervisor
        self.info = info
        self.conninfo = relying(supervisor.conninfo)
        self.template = TEMPLATE
        self.prefix = DATABASE_PREFIX

    def _close(self) -> None:
        self._supervisor.close()


def open_embedded(
    major: int, content: Content, *, reason: str, say: Say, use_cache: bool = True
) -> EmbeddedServer:
    """Start a server that holds `content`. Raises InfrastructureError when it cannot."""
    account = server_account()
    cache = open_cache()
    binaries = reachable(find_binaries(major), account, cache.root if cache else None)
    info = ServerInfo("embedded", binaries.version, reason)
    supervisor = Supervisor(binaries, account, _settings(major))
    try:
        filled = False
        if use_cache and cache is None:
            say("cache: no folder for one; set INVARIANTS_CACHE_DIR to start faster")
        if use_cache and cache is not None:
            try:
                filled = _from_cache(cache, supervisor, binaries, account, content, say)
            except (CacheBusy, OSError) as error:
                say(f"cache: not used ({error})")
        if not filled:
            if not supervisor.data.exists():
                supervisor.initialize()
            supervisor.start()
            _fill(supervisor, content)
            return EmbeddedServer(supervisor, info)
        supervisor.adopt()
        supervisor.start()
        return EmbeddedServer(supervisor, info)
    except BaseException:
        supervisor.close()
        raise


def _settings(major: int) -> dict[str, str]:
    settings = dict(SPEED_SETTINGS)
    # Segments are then files in the server's folder, and go with it whatever happens.
    settings["dynamic_shared_memory_type"] = "mmap"
    if major >= 18:
        settings["io_method"] = "sync"  # the default starts three more processes
    return settings


def _from_cache(
    cache: Cache,
    supervisor: Supervisor,
    binaries: Binaries,
    account: Account,
    content: Content,
    say: Say,
) -> bool:
    """Put the cluster with `content` into the supervisor's folder, building it first if need be."""
    key = _key(binaries, content.key)
    if cache.fetch(key, supervisor.data):
        return True
    with cache.building(key):
        # Whoever held the lock before may have built it.
        if cache.fetch(key, supervisor.data, building=True):
            return True
        say(f"migrating a template on PostgreSQL {binaries.version} (kept for the next run)")
        builder = Supervisor(binaries, account, _settings(int(binaries.version.split(".")[0])))
        try:
            _bare(cache, builder, binaries)
            builder.start()
            _fill(builder, content)
            builder.stop()
            cache.store(key, builder.data)
        finally:
            builder.close()
    cache.prune()
    return cache.fetch(key, supervisor.data)


def _bare(cache: Cache, supervisor: Supervisor, binaries: Binaries) -> None:
    """Put a cluster as initdb makes it into the supervisor's folder."""
    key = _key(binaries, "bare")
    if not cache.fetch(key, supervisor.data):
        with cache.building(key):
            if not cache.fetch(key, supervisor.data, building=True):
                supervisor.initialize()
                cache.store(key, supervisor.data)
                return
    supervisor.adopt()


def _fill(supervisor: Supervisor, content: Content) -> None:
    conninfo = relying(supervisor.conninfo)
    with connect(conninfo) as connection:
        create_database(connection, TEMPLATE)
    content.fill(make_conninfo(conninfo, dbname=TEMPLATE))


def _key(binaries: Binaries, content_key: str) -> str:
    parts = [
        str(CLUSTER_FORMAT),
        binaries.version,
        binaries.package,
        platform.machine(),
        content_key,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
