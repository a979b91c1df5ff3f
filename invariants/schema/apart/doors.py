"""Leads whatever connects to a database from this process to one of our own, or refuses it by name.

Drivers are changed as soon as they are imported, so that it does not matter who asks them:
SQLAlchemy, a pool or a migration. Of what a caller wants, what says how to talk is kept (options,
application_name, timeouts); what says where, as whom and by what proof is ours.
"""

from __future__ import annotations

import inspect
import ssl
import sys
from collections.abc import Callable, Mapping
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

SOCKET_NAME = ".s.PGSQL."
# Parameters of libpq that are the caller's to choose: none of them says where to connect.
KEPT = frozenset(
    (
        "application_name",
        "client_encoding",
        "connect_timeout",
        "fallback_application_name",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "options",
        "tcp_user_timeout",
    )
)
# Since which version libpq knows what our own, which may be newer than a driver's, is told.
_SINCE = {
    "require_auth": 160000,
    "sslcertmode": 160000,
    "load_balance_hosts": 160000,
    "sslnegotiation": 170000,
    "min_protocol_version": 180000,
    "max_protocol_version": 180000,
}
# The same for asyncpg, by the names of its arguments.
_WHERE_OF_ASYNCPG = frozenset(
    (
        "dsn",
        "host",
        "port",
        "user",
        "password",
        "passfile",
        "service",
        "servicefile",
        "database",
        "ssl",
        "direct_tls",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
    )
)
_DSN_OF_ASYNCPG = frozenset(("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl"))
_IN_MEMORY = (":memory:", "file::memory:")
_DRIVERS_LED = frozenset(("psycopg", "psycopg_async", "psycopg2", "asyncpg", "pg8000"))


class Refused(Exception):
    """A connection that would have gone to a database that is not ours."""


class Doors:
    """The one database that connections of this process lead to: libpq's parameters of it.

    None refuses them all.
    """

    def __init__(self, target: Mapping[str, str] | None) -> None:
        self._target = target

    def install(self) -> None:
        """Change the drivers that are there and those that will be imported."""
        after: dict[str, Callable[[ModuleType], None]] = {
            "psycopg": self._psycopg,
            "psycopg2": self._psycopg2,
            "asyncpg": self._asyncpg,
            "pg8000.core": self._pg8000,
            "sqlalchemy.engine": self._sqlalchemy,
        }
        for name in [name for name in after if name in sys.modules]:
            after.pop(name)(sys.modules[name])
        sys.meta_path.insert(0, _Imports(after))

    def led(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of libpq for a connection that is asked for with `wanted`."""
        if self._target is None:
            raise Refused(
                "it connects to a database while it is loaded; connect in upgrade() or in env.py"
            )
        kept = {k: v for k, v in wanted.items() if k in KEPT and v is not None}
        options = [p["options"] for p in (self._target, kept) if p.get("options")]
        return kept | dict(self._target) | ({"options": " ".join(options)} if options else {})

    def _dsn(self, dsn: str | None, arguments: Mapping[str, Any]) -> str:
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        return make_conninfo(**self.led({**conninfo_to_dict(dsn or ""), **arguments}))

    def _psycopg(self, module: Any) -> None:
        parameters = {option.keyword.decode() for option in module.pq.Conninfo.get_defaults()} | {
            "service",
            "servicefile",
        }
        for kind in (module.Connection, module.AsyncConnection):
            self._psycopg_class(kind, parameters)
        module.connect = module.Connection.connect

    def _psycopg_class(self, kind: Any, parameters: set[str]) -> None:
        original = kind.connect.__func__

        def connect(cls: Any, /, conninfo: str = "", **arguments: Any) -> Any:
            of_libpq = {k: v for k, v in arguments.items() if k in parameters}
            others = {k: v for k, v in arguments.items() if k not in parameters}
            return original(cls, self._dsn(conninfo, of_libpq), **others)

        kind.connect = classmethod(connect)

    def _psycopg2(self, module: Any) -> None:
        original = module._connect
        version = module.extensions.libpq_version()

        def led(dsn: str) -> str:
            from psycopg.conninfo import conninfo_to_dict, make_conninfo

            known = conninfo_to_dict(self._dsn(dsn, {}))
            fitting = {k: str(v) for k, v in known.items() if _SINCE.get(k, version) <= version}
            return make_conninfo(**fitting)

        def connect(dsn: str, *rest: Any, **arguments: Any) -> Any:
            return original(led(dsn), *rest, **arguments)

        class connection(module.extensions.connection):  # type: ignore[misc]
            def __init__(self, dsn: str, *rest: Any, **arguments: Any) -> None:
                super().__init__(led(dsn), *rest, **arguments)

        for place in (module, module._psycopg):
            place._connect = connect
        for place in (module.extensions, module._psycopg):
            place.connection = connection

    def _asyncpg(self, module: Any) -> None:
        original = module.connection.connect

        def connect(dsn: str | None = None, **arguments: Any) -> Any:
            target = self.led({})
            settings = dict(arguments.pop("server_settings", None) or {})
            for name, value in parse_qsl(urlsplit(dsn or "").query):
                # What asyncpg does not know is a setting of the server.
                if name in ("options", "search_path", "application_name"):
                    settings.setdefault(name, value)
            query = {k: v for k, v in target.items() if k in _DSN_OF_ASYNCPG}
            if target.get("options"):
                settings["options"] = " ".join(
                    o for o in (target["options"], settings.get("options")) if o
                )
            kept = {k: v for k, v in arguments.items() if k not in _WHERE_OF_ASYNCPG}
            return original(
                f"postgresql:///?{urlencode(query)}",
                host=target.get("host") or target.get("hostaddr"),
                port=int(target.get("port") or 5432),
                user=target["user"],
                password=target.get("password"),
                database=target["dbname"],
                server_settings=settings,
                **kept,
            )

        module.connection.connect = module.connect = connect

    def _pg8000(self, module: Any) -> None:
        original = module.CoreConnection.__init__
        signature = inspect.signature(original)

        def __init__(connection: Any, *arguments: Any, **named: Any) -> None:
            given = signature.bind(connection, *arguments, **named).arguments
            target = self.led({})
            host = target.get("hostaddr") or target.get("host") or "localhost"
            port = int(target.get("port") or 5432)
            on_socket = host.startswith("/")
            given |= {
                "user": target["user"],
                "password": target.get("password"),
                "database": target["dbname"],
                "host": "localhost" if on_socket else host,
                "port": port,
                "unix_sock": f"{host}/{SOCKET_NAME}{port}" if on_socket else None,
                "source_address": None,
                "ssl_context": None if on_socket else _ssl(target),
            }
            given.pop("sock", None)
            if target.get("options") and "startup_params" in signature.parameters:
                startup = given.get("startup_params") or {}
                given["startup_params"] = {"options": target["options"], **startup}
            original(**given)

        module.CoreConnection.__init__ = __init__

    def _sqlalchemy(self, module: Any) -> None:
        from sqlalchemy import event

        @event.listens_for(module.Engine, "do_connect")
        def _lead(dialect: Any, record: Any, arguments: Any, named: Any) -> None:
            del record, named
            if dialect.name == "postgresql" and dialect.driver in _DRIVERS_LED:
                return  # the driver is led itself
            place = str(arguments[0]) if arguments else ""
            if dialect.name == "sqlite" and (not place or place.startswith(_IN_MEMORY)):
                return
            what = f"{dialect.name}+{dialect.driver}"
            raise Refused(
                f"it connects by {what}, which cannot be led to the scratch database; use "
                f"config.attributes['connection'], or one of {', '.join(sorted(_DRIVERS_LED))}"
            )


def _ssl(target: Mapping[str, str]) -> ssl.SSLContext | None:
    """What pg8000 takes for libpq's sslmode: a certificate is checked where libpq checks it."""
    mode = target.get("sslmode", "prefer")
    if mode in ("disable", "allow", "prefer"):
        return None
    context = ssl.create_default_context(cafile=target.get("sslrootcert"))
    context.check_hostname = mode == "verify-full"
    if not mode.startswith("verify"):
        context.verify_mode = ssl.CERT_NONE
    return context


class _Imports(MetaPathFinder):
    """Calls what is due after the import of a module."""

    def __init__(self, after: dict[str, Callable[[ModuleType], None]]) -> None:
        self._after = after

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._after:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Followed(spec.loader, self._after[fullname])
        return spec


class _Followed(Loader):
    def __init__(self, loader: Loader, after: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._after = after

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._after(module)
