"""The installed decoders give the rows on record for fixed clips"""

import json

import pytest

from remix_study.media.decoders import DecoderName
from tests.decoders import installed
from tests.golden.make_decoding_golden import CLIPS, GOLDEN, KINDS, name_of, rows_of, versions_of

pytestmark = pytest.mark.slow
REGENERATE = (
    "Look at the difference. If it is right, run `python -m tests.golden.make_decoding_golden`, and say so in "
    "CHANGELOG.md: the rows of new stores have changed."
)


@pytest.mark.parametrize("decoder", installed())
@pytest.mark.parametrize("name", sorted(map(name_of, KINDS)))
def test_a_clip_decodes_to_the_rows_on_record(name: str, decoder: DecoderName) -> None:
    versions = versions_of(decoder)
    golden = json.loads(GOLDEN.read_text())
    assert versions in golden, f"There is no record of {versions}, only of {'; '.join(golden)}. {REGENERATE}"
    found = rows_of(CLIPS / name, decoder)
    assert found["video"] == golden[versions][name]["video"], REGENERATE
    assert found["audio"] == pytest.approx(golden[versions][name]["audio"], abs=0.02), REGENERATE
