"""The files that a program imports, found without running it

An upload must contain each of them: Python silently takes a module that is missing there from an installed package.
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_INSTALLED = ("site-packages", "dist-packages")
_BY_NAME = re.compile(rb"""import_module\(\s*["']([\w.]+)["']""")


@dataclass(frozen=True)
class Imports:
    """What a program needs.

    Args:
        files: paths relative to the root: the modules that it imports, and the data files that these name.
        elsewhere: modules outside of the root that are not installed, such as those on `PYTHONPATH`, with their place.
    """

    files: tuple[str, ...]
    elsewhere: dict[str, Path]


def imports_of(root: Path, start: str, *, only_package: bool = False) -> Imports:
    """Follow the imports of a module, also those inside functions, through all files below `root`.

    Args:
        root: the folder in which Python looks for modules first.
        start: dotted name of the module that is run, such as `remix_study.__main__`.
        only_package: follow only modules of the package of `start`, because `root` holds other installed packages.
    """
    package = start.partition(".")[0]
    found: set[str] = set()
    outside: set[str] = set()
    waiting = [start]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        if parent:
            waiting.append(parent)  # Python imports it first
        path = None if only_package and name.partition(".")[0] != package else _file_of(root, name)
        if path is None:
            outside.add(name.partition(".")[0])
            continue
        found.add(path.relative_to(root).as_posix())
        stat = path.stat()
        modules, data = _scan(path, name if path.name == "__init__.py" else parent, stat.st_mtime_ns, stat.st_size)
        waiting += modules
        found.update(each.relative_to(root).as_posix() for each in data)
    own = {path.partition("/")[0].removesuffix(".py") for path in found}
    return Imports(tuple(sorted(found)), _elsewhere(outside - own, root))


def module_name(path: str) -> str:
    """The dotted name of the module in a file, `a.b` for `a/b.py` and `a` for `a/__init__.py`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _file_of(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if path.is_file():
            return path
    return None


@cache  # parsing takes half a second, and one process may check several submissions
def _scan(path: Path, package: str, changed_ns: int, size: int) -> tuple[tuple[str, ...], tuple[Path, ...]]:  # noqa: ARG001 - keys
    """The modules that a file imports, and the data files that it names."""
    source = path.read_bytes()
    return tuple(_imported(source, package)), tuple(_data_files(source, path.parent))


def _imported(source: bytes, package: str) -> Iterator[str]:
    """The names that may be modules; of `from a import b`, both `a` and `a.b`."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # it cannot be imported either
    for node in _statements(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                yield base
                yield from (f"{base}.{each.name}" for each in names)
    yield from (name.decode() for name in _BY_NAME.findall(source))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements, except those that only a type checker reads."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        if part == "body" and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        for child in getattr(node, part, ()):
            yield child
            yield from _statements(child)


def _data_files(source: bytes, folder: Path) -> Iterator[Path]:
    """The files beside a module that it names, such as a template."""
    for path in folder.iterdir():
        if path.suffix not in ("", ".py", ".pyc") and path.is_file():
            names = (f'"{path.name}"'.encode(), f"'{path.name}'".encode())
            if any(name in source for name in names):
                yield path


def _elsewhere(names: set[str], root: Path) -> dict[str, Path]:
    """Modules that Python finds outside of the root, of the standard library, and of the installed packages."""
    found = {}
    for name in sorted(names - sys.stdlib_module_names):
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue  # optional, or a script that is run as `__main__`
        if spec is None or spec.origin is None or not Path(spec.origin).is_file():
            continue
        path = Path(spec.origin).resolve()
        if not path.is_relative_to(root) and not set(_INSTALLED) & set(path.parts):
            found[name] = path.parent if path.name == "__init__.py" else path
    return found
