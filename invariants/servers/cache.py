"""Keeps built database clusters on disk, for this process, the next, and any that runs beside it.

An entry is a folder `KEY/` with `data/` and, written last, `manifest.json`. It is built beside its
place and renamed into it, read under a shared lock, and checked against its manifest while it is
copied out: whatever is half-built or damaged is as good as absent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invariants.errors import UsageError

ENVIRONMENT_VARIABLE = "INVARIANTS_CACHE_DIR"
NAME = "invariants"
MANIFEST_FORMAT = 1
ENTRIES_KEPT = 6
# Building takes seconds; someone who holds the lock for longer hangs.
LOCK_WAIT_SECONDS = 120.0
LOCK_POLL_SECONDS = 0.02
BINARIES_ABANDONED_SECONDS = 3600.0


class Cache:
    """Built clusters by key. Every method is safe beside other processes that do the same."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fetch(self, key: str, target: Path, *, building: bool = False) -> bool:
        """Copy the cluster of `key` to `target`; False, with no `target`, when there is none.

        `building` says that the caller is inside `building(key)` and holds the lock already.
        """
        entry = self.root / key
        if not entry.is_dir():
            return False
        with contextlib.nullcontext() if building else self._lock(key, fcntl.LOCK_SH):
            if _copy_out(entry, target):
                with contextlib.suppress(OSError):
                    os.utime(entry)  # the time of last use, which pruning goes by
                return True
        shutil.rmtree(target, ignore_errors=True)
        return False

    @contextmanager
    def building(self, key: str) -> Iterator[None]:
        """Hold the right to build `key`; waits for whoever builds it now."""
        with self._lock(key, fcntl.LOCK_EX):
            yield

    def store(self, key: str, source: Path) -> None:
        """Keep a copy of a cleanly stopped cluster. Call it inside `building(key)`."""
        for leftover in self.root.glob(f"{key}.building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        building = self.root / f"{key}.building-{secrets.token_hex(4)}"
        building.mkdir(mode=0o700)
        try:
            files: dict[str, list[int]] = {}
            folders: list[str] = []
            _copy_tree(source, building / "data", "", files, folders)
            manifest = {"format": MANIFEST_FORMAT, "folders": folders, "files": files}
            (building / "manifest.json").write_text(json.dumps(manifest))
            shutil.rmtree(self.root / key, ignore_errors=True)
            building.rename(self.root / key)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def prune(self, keep: int = ENTRIES_KEPT) -> None:
        """Remove all but the `keep` entries used last, and what dead builders left."""
        used: dict[str, float] = {}
        for path in list(self.root.iterdir()):
            with contextlib.suppress(OSError):
                key, _, rest = path.name.partition(".")
                if key.startswith("binaries-"):
                    # 18.4 has a dot too: the whole name counts, and there is no lock to ask.
                    old = time.time() - path.stat().st_mtime > BINARIES_ABANDONED_SECONDS
                    if ".building-" in path.name and old:
                        shutil.rmtree(path, ignore_errors=True)
                elif path.is_dir():
                    age = path.stat().st_mtime if not rest else 0.0
                    used[key] = max(used.get(key, 0.0), age)
        by_age = sorted(used, key=lambda key: used[key], reverse=True)
        for position, key in enumerate(by_age):
            leftovers = list(self.root.glob(f"{key}.building-*"))
            if position < keep and not leftovers:
                continue
            # Nobody waits for pruning: what is in use now is pruned another time.
            with contextlib.suppress(BlockingIOError, OSError):
                descriptor = self._open_lock(key)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for path in [*leftovers, *([self.root / key] if position >= keep else [])]:
                        shutil.rmtree(path, ignore_errors=True)
                    if position >= keep:
                        self._lock_path(key).unlink(missing_ok=True)
                finally:
                    os.close(descriptor)

    def _lock_path(self, key: str) -> Path:
        return self.root / f"{key}.lock"

    def _open_lock(self, key: str) -> int:
        return os.open(self._lock_path(key), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def _lock(self, key: str, kind: int) -> Iterator[None]:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            descriptor = self._open_lock(key)
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                # Pruning removes lock files: a lock on one that is gone protects nothing.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), self._lock_path(key).stat()):
                        break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise CacheBusy(self._lock_path(key)) from None
                time.sleep(LOCK_POLL_SECONDS)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        try:
            yield
        finally:
            os.close(descriptor)


class CacheBusy(Exception):
    """Another process has held an entry for too long."""


def open_cache() -> Cache | None:
    """Return the cache, or None where there is no safe place for one.

    Raises UsageError when the folder in INVARIANTS_CACHE_DIR cannot be used.
    """
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    root = Path(given).absolute() if given else _default_root()
    try:
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        status = root.stat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        # What is in the cache gets executed: only we may have put it there.
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "it is somebody else's, or others can write to it")
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if given:
            raise UsageError(
                f"{ENVIRONMENT_VARIABLE}={given}: not usable as a cache ({error.strerror}); "
                "name a folder of your own"
            ) from error
        return None
    return Cache(root)


def _default_root() -> Path:
    if os.geteuid() == 0:
        # Root's home is closed to the account PostgreSQL runs under, and binaries may go here.
        return Path("/var/cache") / NAME
    from platformdirs import user_cache_path

    return user_cache_path(NAME, appauthor=False)


def _copy_file(source: str, target: str) -> list[int]:
    """Copy one file; return its size and checksum."""
    with open(source, "rb", buffering=0) as reader:  # noqa: PTH123 - Path costs more than the copy
        content = reader.read()
    with open(target, "xb", buffering=0) as writer:  # noqa: PTH123
        writer.write(content)
    return [len(content), zlib.crc32(content)]


def _copy_tree(
    source: Path | str, target: Path | str, name: str, files: dict[str, list[int]], dirs: list[str]
) -> None:
    os.mkdir(target, 0o700)  # noqa: PTH102
    with os.scandir(source) as entries:
        for entry in entries:
            relative = f"{name}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                dirs.append(relative)
                _copy_tree(entry.path, f"{target}/{entry.name}", f"{relative}/", files, dirs)
            elif entry.is_file(follow_symlinks=False):
                files[relative] = _copy_file(entry.path, f"{target}/{entry.name}")


def _copy_out(entry: Path, target: Path) -> bool:
    """Copy a cluster to `target`; False when it is not exactly what its manifest says."""
    try:
        manifest: dict[str, Any] = json.loads((entry / "manifest.json").read_text())
        if manifest["format"] != MANIFEST_FORMAT:
            return False
        files: dict[str, list[int]] = {}
        folders: list[str] = []
        _copy_tree(entry / "data", target, "", files, folders)
        return files == manifest["files"] and sorted(folders) == sorted(manifest["folders"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        # Whatever else the manifest holds, it is no manifest.
        return False
