"""PostgreSQL in a container, through testcontainers, gone when closed.

Docker's client is imported only here and only when needed: it costs more than starting PostgreSQL.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from invariants.errors import InfrastructureError, UsageError
from invariants.servers.base import (
    SPEED_SETTINGS,
    Content,
    Say,
    Server,
    ServerInfo,
    connect,
    create_database,
    database_message,
    version_number,
)
from invariants.servers.connect import relying, settled
from invariants.servers.marks import DATABASE_PREFIX

DEFAULT_TAG = "18"
REPOSITORY = "postgres"
TEMPLATE = f"{DATABASE_PREFIX}template"
PASSWORD_BYTES = 12
# For `auto`, which has an alternative, and for somebody who asked for a container.
PING_SECONDS = 1.0
PATIENT_PING_SECONDS = 10.0
WORK_SECONDS = 120.0
PULL_VARIABLE = "INVARIANTS_PULL_SECONDS"
PULL_SECONDS = 120.0
READY_SECONDS = 60.0
READY_POLL_SECONDS = 0.05
REMEDY = "start Docker or use --server embedded"

# Who made a container: so that the next run on this host removes what a killed one left.
LABEL_HOST = "invariants.host"
LABEL_OWNER = "invariants.owner"


class DockerUnusable(InfrastructureError):
    """Docker could not be used for a container; says nothing about what would run in it."""


class ContainerServer(Server):
    """A server in a container of our own."""

    def __init__(self, container: Any, conninfo: str, info: ServerInfo) -> None:
        super().__init__()
        self._container = container
        self.conninfo = conninfo
        self.info = info
        self.template = TEMPLATE
        self.prefix = DATABASE_PREFIX

    def _close(self) -> None:
        # An engine that is gone has taken the container with it, or keeps it for the next run.
        with contextlib.suppress(Exception):
            self._container.stop()


def why_not(tag: str, say: Say) -> str | None:
    """Return in a few words why a container cannot be used here, or None when it can."""
    if not _may_have_engine():
        return "no Docker engine here"
    try:
        client = _client(PING_SECONDS)
    except Exception:  # noqa: BLE001 - whatever is wrong, it does not answer
        return "no Docker engine answers"
    try:
        if _has_image(client, tag):
            return None
        say(f"pulling {REPOSITORY}:{tag} ..")
        try:
            _pull(tag)
        except DockerUnusable:
            return f"the image {REPOSITORY}:{tag} is not there and cannot be pulled"
        return None
    except Exception:  # noqa: BLE001
        return "the Docker engine answers no more"
    finally:
        client.close()


def open_container(tag: str, content: Content, *, reason: str, say: Say) -> ContainerServer:
    """Start a container of `postgres:TAG` holding `content`, pulling the image if need be.

    Raises InfrastructureError, with what to do, when Docker or the container fails.
    """
    with _docker_errors(tag):
        client = _client(PATIENT_PING_SECONDS)
        try:
            _remove_leftovers(client)
            present = _has_image(client, tag)
        finally:
            client.close()
    if not present:
        say(f"pulling {REPOSITORY}:{tag} ..")
        _pull(tag)
    with _docker_errors(tag):
        container = _container(tag)
    try:
        with _docker_errors(tag):
            _start(container, say)
            conninfo = make_conninfo(
                host=container.get_container_host_ip(),
                port=container.get_exposed_port(5432),
                user=container.username,
                password=container.password,
                dbname=container.dbname,
            )
        conninfo = settled(conninfo)
        _wait_until_ready(container, conninfo)
        conninfo = relying(conninfo)
        with connect(conninfo) as connection:
            info = ServerInfo("container", version_number(connection), reason)
            create_database(connection, TEMPLATE)
        content.fill(make_conninfo(conninfo, dbname=TEMPLATE))
    except psycopg.Error as error:
        _stop(container)
        raise InfrastructureError(f"container: {database_message(error)}") from error
    except BaseException:
        _stop(container)
        raise
    return ContainerServer(container, conninfo, info)


@contextlib.contextmanager
def _docker_errors(tag: str) -> Iterator[None]:
    """Turn whatever Docker's client, its HTTP library or testcontainers raise into one line."""
    try:
        yield
    except (InfrastructureError, UsageError):
        raise
    except Exception as error:
        message = f"Docker failed on {REPOSITORY}:{tag}: {_innermost(error)}"
        if not _answers():
            message = "no Docker engine answers"
        raise DockerUnusable(f"--server container: {message}; {REMEDY}") from error


def _innermost(error: BaseException) -> str:
    """Return what the engine said, else the first cause: HTTP libraries wrap it several times."""
    while True:
        explanation = getattr(error, "explanation", None)
        if explanation:
            return str(explanation).strip().splitlines()[0]
        if error.__context__ is None:
            break
        error = error.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _may_have_engine() -> bool:
    """Look for a trace of an engine, without importing anything."""
    home = Path.home()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    sockets = [Path("/var/run/docker.sock"), home / ".docker/run/docker.sock"]
    if runtime:
        sockets.append(Path(runtime) / "docker.sock")
    if os.environ.get("DOCKER_HOST") or any(path.exists() for path in sockets):
        return True
    try:
        return bool(json.loads((home / ".docker/config.json").read_text()).get("currentContext"))
    except (OSError, ValueError, AttributeError):
        return (home / ".testcontainers.properties").exists()


def _client(timeout_seconds: float) -> Any:
    """Return a client for an engine that has answered within so long."""
    from testcontainers.core.docker_client import DockerClient

    client = DockerClient(timeout=timeout_seconds).client
    try:
        client.ping()
        # The engine is there; from here on it may take its time, which on a busy host it does.
        client.api.timeout = WORK_SECONDS
    except BaseException:
        client.close()
        raise
    return client


def _answers() -> bool:
    try:
        _client(PATIENT_PING_SECONDS).close()
    except Exception:  # noqa: BLE001
        return False
    return True


def _has_image(client: Any, tag: str) -> bool:
    from docker.errors import ImageNotFound

    try:
        client.images.get(_image(tag))
    except ImageNotFound:
        return False
    return True


def _image(tag: str) -> str:
    from testcontainers.core.config import testcontainers_config

    return f"{testcontainers_config.hub_image_name_prefix}{REPOSITORY}:{tag}"


def _pull(tag: str) -> None:
    """Pull the image. Raises InfrastructureError when it fails or takes too long."""
    limit = _pull_seconds()
    deadline = time.monotonic() + limit
    with _docker_errors(tag):
        client = _client(PATIENT_PING_SECONDS)
        client.api.timeout = limit
        try:
            repository, _, name = _image(tag).rpartition(":")
            # Closing the stream makes the engine give up the pull.
            for event in client.api.pull(repository, tag=name, stream=True, decode=True):
                if event.get("error"):
                    raise DockerUnusable(
                        f"--server container: pulling {REPOSITORY}:{tag} failed: "
                        f"{str(event['error']).splitlines()[0]}; {REMEDY}"
                    )
                if time.monotonic() > deadline:
                    raise DockerUnusable(
                        f"--server container: pulling {REPOSITORY}:{tag} took more than "
                        f"{limit:.0f} s; set {PULL_VARIABLE} to wait longer, or {REMEDY}"
                    )
        finally:
            client.close()


def _pull_seconds() -> float:
    value = os.environ.get(PULL_VARIABLE)
    try:
        return PULL_SECONDS if value is None else float(value)
    except ValueError:
        raise UsageError(f"{PULL_VARIABLE}={value}: not a number of seconds") from None


def _container(tag: str) -> Any:
    from testcontainers.community.postgres import PostgresContainer

    class Postgres(PostgresContainer):
        def _connect(self) -> None:
            """Leave the waiting to us: theirs looks once a second."""

    command = ["postgres"]
    for name, value in SPEED_SETTINGS.items():
        command += ["-c", f"{name}={value}"]
    container = Postgres(
        f"{REPOSITORY}:{tag}",
        username="postgres",
        password=secrets.token_hex(PASSWORD_BYTES),
        dbname="postgres",
        driver=None,
    )
    return container.with_command(command).with_kwargs(
        labels={LABEL_HOST: socket.gethostname(), LABEL_OWNER: _process_mark(os.getpid())}
    )


def _start(container: Any, say: Say) -> None:
    from testcontainers.core.config import testcontainers_config

    try:
        container.start()
    except Exception:
        # The reaper has an image of its own, which may be out of reach when postgres is not.
        if testcontainers_config.ryuk_disabled or container._container is not None:
            raise
        say("testcontainers' reaper is not available; going on without it")
        testcontainers_config.ryuk_disabled = True
        container.start()


def _stop(container: Any) -> None:
    with contextlib.suppress(Exception):
        container.stop()


def _wait_until_ready(container: Any, conninfo: str) -> None:
    # While it sets itself up, the image listens on a socket only: TCP answers when it is done.
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            psycopg.connect(conninfo, connect_timeout=5).close()
            return
        except psycopg.OperationalError as error:
            with _docker_errors("?"):
                container.reload()
            if container.status not in ("created", "running"):
                out, err = container.get_logs()
                lines = (err or out).decode(errors="replace").strip().splitlines()
                raise DockerUnusable(
                    f"--server container: the container stopped: {(lines or ['no log'])[-1]}"
                ) from error
            if time.monotonic() > deadline:
                raise DockerUnusable(
                    f"--server container: not ready after {READY_SECONDS:.0f} s: "
                    f"{database_message(error)}"
                ) from error
        time.sleep(READY_POLL_SECONDS)


def _process_mark(pid: int) -> str:
    """Return what tells this process from a later one with the same id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        # The name, in parentheses, may hold anything; the start time is field 22 of all.
        return f"{pid}:{stat.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return f"{pid}:"


def _remove_leftovers(client: Any) -> None:
    """Remove the containers of processes of this host that are gone."""
    mine = {"label": f"{LABEL_HOST}={socket.gethostname()}"}
    for container in client.containers.list(all=True, filters=mine):
        owner = container.labels.get(LABEL_OWNER, "")
        pid = owner.partition(":")[0]
        if not pid.isdigit() or (_alive(int(pid)) and _process_mark(int(pid)) == owner):
            continue
        # Another run may be removing it too.
        with contextlib.suppress(Exception):
            container.remove(force=True, v=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
