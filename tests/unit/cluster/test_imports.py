"""Files that a program imports, found without running it"""

from pathlib import Path

import pytest

from remix_study.cluster.imports import imports_of, module_name
from tests.unit.cluster.helpers import fill


def write(root: Path, **files: str) -> Path:
    """Create modules; `a__b` is the file a/b.py, and a package has an empty `__init__.py`."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        fill(path, 0)
        path.write_text(text)
        for folder in path.relative_to(root).parents[:-1]:
            if not (root / folder / "__init__.py").exists():
                fill(root / folder / "__init__.py", 0)
    return root


@pytest.mark.parametrize(
    "statement",
    [
        "import p.deep.wanted",
        "from p.deep import wanted",
        "from p.deep.wanted import thing",
        "from .deep import wanted",
        "from . import deep; from .deep.wanted import *",
        "def later():\n    from p.deep import wanted",
        "try:\n    import p.deep.wanted\nexcept ImportError:\n    pass",
        "with open('x'):\n    pass\nelse_ = 1\nif True:\n    pass\nelse:\n    import p.deep.wanted",
        "match 1:\n    case 1:\n        import p.deep.wanted",
        "import importlib\nx = [importlib.import_module('p.deep.wanted')]",
        "import p.between",
    ],
)
def test_every_way_to_import_a_module_is_followed(tmp_path: Path, statement: str) -> None:
    write(tmp_path, p__main=statement, p__between="from p.deep import wanted", p__deep__wanted="", p__other="")
    found = set(imports_of(tmp_path, "p.main").files)
    assert {"p/__init__.py", "p/main.py", "p/deep/__init__.py", "p/deep/wanted.py"} <= found
    assert "p/other.py" not in found


def test_imports_of_a_type_checker_do_not_count(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import p.typed\nelse:\n    import p.run"
    write(tmp_path, p__main=text, p__typed="", p__run="")
    assert set(imports_of(tmp_path, "p.main").files) == {"p/__init__.py", "p/main.py", "p/run.py"}


def test_modules_beside_the_package_and_named_data_files_count(tmp_path: Path) -> None:
    write(tmp_path, p__main="import mine\nname = 'page.html'", mine="")
    for name in ("page.html", "notes.txt"):
        fill(tmp_path / "p" / name, 1)
    assert imports_of(tmp_path, "p.main").files == ("mine.py", "p/__init__.py", "p/main.py", "p/page.html")
    assert "mine.py" not in imports_of(tmp_path, "p.main", only_package=True).files


def test_a_module_outside_of_the_root_is_named_unless_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "elsewhere", my_own_module="")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    root = write(tmp_path / "root", p__main="import json, numpy, no_such_module, my_own_module")
    found = imports_of(root, "p.main")
    assert found.elsewhere == {"my_own_module": tmp_path / "elsewhere" / "my_own_module.py"}


@pytest.mark.parametrize(("path", "name"), [("a/b.py", "a.b"), ("a/__init__.py", "a"), ("a.py", "a")])
def test_the_name_of_a_module_follows_from_its_path(path: str, name: str) -> None:
    assert module_name(path) == name
