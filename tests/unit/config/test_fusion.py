"""`model.fusion`: a word or a group of keys"""

from typing import Any

import pytest

from remix_study.config.fusion import INSIDE, words
from remix_study.config.load import parse_run, put
from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError


def parsed(fusion: Any, **others: Any) -> RunConfig:
    return parse_run({"corpus": "c", "method": {"name": "remix"}, "model": {"fusion": fusion}, **others}, "the test")


@pytest.mark.parametrize("word", words())
def test_a_word_means_the_defaults(word: str) -> None:
    short, long = parsed(word), parsed({"name": word})
    assert short == long
    assert short.model.fusion.name == word
    assert short.digest("d") == long.digest("d")
    assert parse_run(short.model_dump(mode="json"), "again") == short


def test_a_fusion_without_options_is_written_as_a_word() -> None:
    assert parsed("gated").model_dump(mode="json")["model"]["fusion"] == "gated"


def test_dotted_keys_reach_into_a_word() -> None:
    content: dict[str, Any] = {"model": {"fusion": "attention"}}
    put(content, "model.fusion.width", 32)
    assert content == {"model": {"fusion": {"name": "attention", "width": 32}}}


@pytest.mark.parametrize(
    ("fusion", "others", "said"),
    [
        ("gatd", {}, "`model.fusion` must be one of concat, sum"),
        ("gatd", {}, "did you mean `gated`?"),
        ({"name": "gated", "width": 3}, {}, "`model.fusion.width` is not a known key"),
        ({"name": "attention", "width": 30}, {}, "`width` must be a multiple of `heads` (4), but is 30"),
        ({"name": "attention", "dropout": 1.0}, {}, "`model.fusion.dropout` must be below 1"),
        ({"name": "attention", "layers": 0}, {}, "`model.fusion.layers` must be at least 1"),
        ({"width": 64}, {}, "`model.fusion` needs a key 'name' that selects its type"),
        (3, {}, "`model.fusion` must be a group of keys, but is 3"),
        *[
            (fusion, {"method": {"name": "remix", "weight": 0}},
             f"`model.fusion: {fusion}` needs unimodal losses with Remix")
            for fusion in ("film_published", "gated_published")
        ],
        ({"name": "mmtm", "ratio": 0}, {}, "`model.fusion.ratio` must be above 0"),
        ({"name": "mmtm", "greedy": {"steps": 0}}, {}, "`model.fusion.greedy.steps` must be at least 1"),
        ({"name": "centralnet", "greedy": {}}, {}, "`model.fusion.greedy` is not a known key"),
        ({"name": "mmtm", "greedy": {}}, {"method": {"name": "remix", "order": "mixed", "accumulate": True}},
         "`model.fusion.greedy` needs the gradient of a whole step"),
        *[
            (fusion, {"method": {"name": "remix", "with": ["mmpareto"]}},
             f"`mmpareto` needs features of each modality alone, which `model.fusion: {fusion}` mixes")
            for fusion in INSIDE
        ],
        *[
            (fusion, {"masking": "mean_feature"}, f"no effect with `model.fusion: {fusion}`")
            for fusion in ("decision", "attention")
        ],
        *[
            (fusion, {"method": {"name": "joint", "with": ["agm"]}}, f"`model.fusion: {fusion}` does not have")
            for fusion in sorted(set(words()) - {"concat", "sum", "decision"})
        ],
    ],
)  # fmt: skip
def test_a_wrong_fusion_is_refused_with_its_reason(fusion: Any, others: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(fusion, **others)
    assert said in str(caught.value)


@pytest.mark.parametrize("masking", ["zero_input", "mean_feature", "learned_token"])
def test_published_fusions_need_no_unimodal_losses_where_the_factor_is_not_zero(masking: str) -> None:
    parsed("film_published", method={"name": "remix", "weight": 0}, masking=masking)
