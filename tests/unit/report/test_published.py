"""Published values beside those of a study"""

from pathlib import Path

import pytest

from remix_study.config.balancing import Additions
from remix_study.datasets.protocols import PROTOCOLS
from remix_study.errors import StudyError
from remix_study.report.published import (
    FILE,
    PUBLISHED,
    Reproduction,
    published_section,
    published_sentence,
    published_table,
    reproduction_of,
)
from remix_study.study.comparison import Method, StudyResult

OF = Reproduction("cremad", "CREMA-D", 7442, 0)
METHODS = tuple(
    Method(name, {}, {n: {"test/accuracy": level + n / 100} for n in range(2)}, None, None, None)
    for name, level in (("joint", 0.6), ("remix", 0.65), ("mine", 0.5))
)
RESULT = StudyResult("s", "q", "remix", METHODS, {}, (), "")


def test_every_method_is_followed_by_its_published_values() -> None:
    rows = published_table(RESULT, OF).rows
    assert [row[0] for row in rows if row[2] == "this study"] == ["joint", "remix", "mine"]
    assert next(row[1] for row in rows if row[0] == "joint").startswith("60.5")
    for method in ("joint", "remix"):
        shown = [row[1] for row in rows if row[0] == method and row[2] != "this study"]
        assert shown == [p.accuracy for p in PUBLISHED["cremad"] if p.method == method]
    assert [row[2] for row in rows if row[0] == "remix"] == ["this study", "paper"]


def test_published_values_are_of_methods_that_a_reproduction_can_run() -> None:
    known = {"joint", "remix", *Additions.model_fields}
    assert PUBLISHED.keys() == PROTOCOLS.keys()
    assert not {p.method for values in PUBLISHED.values() for p in values} - known


def test_missing_clips_and_changes_of_the_recipe_are_said() -> None:
    plain = published_sentence(RESULT, OF)
    assert "no file" not in plain
    assert "changed" not in plain
    said = published_sentence(RESULT, OF._replace(missing=3, changed=("epochs=2",)))
    assert "3 of 7442 listed clips have no file" in said
    assert "was changed (epochs=2), so this is a test and no reproduction" in said


def test_only_a_reproduction_has_the_section(tmp_path: Path) -> None:
    assert published_section(RESULT, tmp_path) is None
    (tmp_path / FILE).write_text(OF._replace(changed=("epochs=2",)).to_json())
    assert reproduction_of(tmp_path) == OF._replace(changed=("epochs=2",))
    found = published_section(RESULT, tmp_path)
    assert found is not None
    assert found.title == "CREMA-D: this study beside published values"
    assert published_section(None, tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"protocol": "cremad", "changed": 3}'])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StudyError, match="it is damaged"):
        reproduction_of(tmp_path)
