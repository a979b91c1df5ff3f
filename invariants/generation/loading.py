"""Loads the strategies of a contract: the modules it names, looked up beside its file.

Modules of one name, of two contracts or of something installed, are different modules. Each
contract's own are in `sys.modules` while they are loaded and while one of their strategies runs, so
that every import within them, early or late, finds them and nobody else's.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from hypothesis.errors import HypothesisException

from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.errors import InvariantsError, UsageError
from invariants.generation import hostile, taxonomies
from invariants.generation.registry import ENGINE, Strategies, collecting
from invariants.schema.catalog import Catalog

_ENGINES = (hostile, taxonomies)
_KEY = "strategies.modules"

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """What the modules of a contract register, with the engine's own; and the files it is in."""

    strategies: Strategies
    files: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]

    @property
    def current(self) -> bool:
        """Whether the files are what they were when they were loaded."""
        return _stamps(self.files) == self.stamps


_loaded: dict[tuple[Path, tuple[str, ...]], Loaded] = {}


def strategies_of(contract: Contract) -> Strategies:
    """The strategies of a contract, loaded once. Raises `UsageError` naming file, key, module."""
    return _of(contract).strategies


def files_of(contract: Contract) -> tuple[Path, ...]:
    """The files that the strategies of a contract are in. Raises `UsageError`."""
    return _of(contract).files


def check(contract: Contract, catalog: Catalog) -> None:
    """Check that what the modules speak about is there. Raises `UsageError`."""
    of = _of(contract).strategies
    spoken = [(f"rows({table!r})", table) for table in of.rows]
    spoken += [(f"operation({o.name!r})", t) for o in of.operations.values() for t in o.tables]
    for told, table in spoken:
        if table not in catalog.tables and table not in contract.later:
            remedy = _near(table, catalog.tables) or "remove it, or create it in a migration"
            raise _fault(contract, f"{told}: the database has no table {table!r}; {remedy}")
    for operation in of.operations.values():
        for name in operation.focus:
            if name not in INVARIANTS:
                remedy = _near(name, INVARIANTS) or f"use one of: {', '.join(INVARIANTS)}"
                told = f"operation({operation.name!r}): focus: {name!r} is no invariant; {remedy}"
                raise _fault(contract, told)


def _near(name: str, known: Collection[str]) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else None


def _of(contract: Contract) -> Loaded:
    key = contract.path.parent.resolve(), contract.strategies
    found = _loaded.get(key)
    if found is None or not found.current:
        found = _loaded[key] = _load(contract, *key)
    return found


def _load(contract: Contract, folder: Path, names: Sequence[str]) -> Loaded:
    own = Strategies()
    home = _Home(folder, frozenset(n.partition(".")[0] for n in names))
    name = ""
    with home.present(), collecting(own):
        for name in names:
            try:
                importlib.import_module(name)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001
                raise _fault(contract, f"{name!r} {_why(error, name, folder)}") from None
        if names and not (own.rows or own.operations):
            told = ", ".join(map(repr, names))
            raise _fault(contract, f"{told}: registers nothing; decorate with @rows or @operation")
    files = tuple(sorted(home.files(names)))
    return Loaded(
        Strategies(
            {table: _guarded(home, contract, s) for table, s in own.rows.items()},
            {
                **ENGINE.operations,
                **{
                    n: replace(o, build=_guarded(home, contract, o.build))
                    for n, o in own.operations.items()
                },
            },
        ),
        files,
        _stamps(files),
    )


def _guarded(home: _Home, contract: Contract, strategy: Callable[..., T]) -> Callable[..., T]:
    """The strategy among its own modules; what it raises is told in a line."""

    @wraps(strategy)
    def call(*arguments: Any) -> T:
        try:
            if home.is_present:
                return strategy(*arguments)
            with home.present():
                return strategy(*arguments)
        except (HypothesisException, InvariantsError):
            raise
        except Exception as error:
            name = f"{strategy.__module__}.{strategy.__qualname__}"
            told = f"{name!r} failed: {_told(error, home.folder)}; mend it"
            raise _fault(contract, told) from error

    return call


class _Home(MetaPathFinder):
    """Where a contract's own modules are found, and what they are."""

    def __init__(self, folder: Path, roots: frozenset[str]) -> None:
        self.folder, self.roots = folder, roots
        self.modules: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module or package of this name beside the contract, if it is one of its own."""
        del target
        if path is not None or fullname not in self.roots:
            return None
        spec = PathFinder.find_spec(fullname, [str(self.folder)])
        if spec is None:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        if spec.loader is None:
            # A folder without __init__.py: there it is, wherever else Python would look for parts.
            spec.submodule_search_locations = [str(self.folder / fullname)]
        return spec

    @property
    def is_present(self) -> bool:
        """Whether the modules of these names are the contract's own."""
        return all(sys.modules.get(r) is self.modules.get(r) for r in self.roots)

    @contextmanager
    def present(self) -> Iterator[None]:
        """The contract's own modules in place of others of their names, for a `with` statement.

        They stay where nothing else was, so that there is mostly nothing to exchange.
        """
        others = self._taken()
        sys.modules.update(self.modules)
        sys.meta_path.insert(0, self)
        importlib.invalidate_caches()
        done = False
        try:
            yield
            done = True
        finally:
            sys.meta_path.remove(self)
            mine = self._taken()
            if done or self.modules:
                self.modules = mine
            sys.modules.update(others or self.modules)

    def _taken(self) -> dict[str, ModuleType]:
        """What is in `sys.modules` under these names, taken out."""
        names = [n for n in sys.modules if n.partition(".")[0] in self.roots]
        return {n: sys.modules.pop(n) for n in names}

    def files(self, names: Sequence[str]) -> set[Path]:
        """All files of the packages named, and those of the modules that they have loaded."""
        found = {
            Path(module.__file__).resolve() for module in self.modules.values() if module.__file__
        }
        for name in names:
            for folder in getattr(self.modules[name], "__path__", ()):
                found |= {
                    p
                    for p in Path(folder).rglob("*")
                    if p.is_file() and "__pycache__" not in p.parts
                }
        return found


def _stamps(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """What tells whether one of the files has changed."""
    found = []
    for file in files:
        try:
            status = file.stat()
            found.append((status.st_mtime_ns, status.st_size))
        except OSError:
            found.append((0, 0))
    return tuple(found)


def _why(error: BaseException, name: str, folder: Path) -> str:
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and f"{name}.".startswith(f"{error.name}.")
    ):
        path = error.name.replace(".", "/")
        return f"is not beside the contract; make {path}.py there, or correct the name"
    if isinstance(error, SystemExit):
        return f"cannot be loaded: it ends the program ({_told(error, folder)}); mend it"
    return f"cannot be loaded: {_told(error, folder)}; mend it"


def _told(error: BaseException, folder: Path) -> str:
    """An error in one line, with the last place in the folder that it went through."""
    if isinstance(error, SyntaxError):
        where, text = (error.filename, error.lineno), error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        mine = [f for f in frames if Path(f.filename).is_relative_to(folder)]
        where, text = (mine[-1].filename, mine[-1].lineno) if mine else (None, None), str(error)
    told = " ".join(f"{type(error).__name__}: {text}".split()).rstrip(": ")
    if where[0] is None:
        return told
    file = Path(where[0])
    shown = file.relative_to(folder) if file.is_relative_to(folder) else file
    return f"{told} ({shown}, line {where[1]})"


def _fault(contract: Contract, told: str) -> UsageError:
    return UsageError(f"{contract.path}: {_KEY}: {told}")
