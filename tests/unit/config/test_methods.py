"""`with`: methods that are added to a way of training"""

from typing import Any

import pytest

from remix_study.config.balancing import ON_UNIMODAL_LOSSES, Additions, OGMGEOptions, options_of
from remix_study.config.load import parse_run, put
from remix_study.config.method import expanded, names_of
from remix_study.config.run import RunConfig
from remix_study.errors import ConfigError

NAMES = list(Additions.model_fields)


def parsed(method: Any, **others: Any) -> RunConfig:
    return parse_run({"corpus": "c", "method": method, **others}, "the test")


def problem(method: Any, **others: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(method, **others)
    return str(caught.value)


@pytest.mark.parametrize("name", ["joint", "joint_unimodal", "remix"])
def test_a_list_of_names_and_a_name_without_options_mean_the_defaults(name: str) -> None:
    written: list[Any] = [["ogm_ge"], {"ogm_ge": None}, {"ogm_ge": {}}, {"ogm_ge": {"alpha": 0.8}}]
    methods = [parsed({"name": name, "with": each}).method for each in written]
    assert len({each.model_dump_json() for each in methods}) == 1
    assert names_of(methods[0]) == (name, "ogm_ge")


@pytest.mark.parametrize("name", NAMES)
def test_a_method_of_its_own_is_joint_training_with_it(name: str) -> None:
    base = "joint_unimodal" if name in ON_UNIMODAL_LOSSES else "joint"
    options = {"begin": 2} if "begin" in options_of(name).model_fields else {}
    alone, added = parsed({"name": name, **options}).method, parsed({"name": base, "with": {name: options}})
    assert expanded(alone) == added.method
    assert names_of(alone) == (name,)
    assert expanded(added.method) is added.method


def test_methods_that_replace_the_fused_loss_act_before_those_that_scale_it() -> None:
    replacing = [name for name in NAMES if options_of(name).replaces_fused]
    assert NAMES[: len(replacing)] == replacing


def test_dotted_keys_reach_into_lists_and_names_without_options() -> None:
    for written in (["agm", "ogm_ge"], {"agm": None, "ogm_ge": None}):
        content: dict[str, Any] = {"method": {"name": "remix", "with": written}}
        put(content, "method.with.ogm_ge.alpha", 0.3)
        assert content["method"]["with"] == {"agm": written["agm"] if isinstance(written, dict) else {},
                                             "ogm_ge": {"alpha": 0.3}}  # fmt: skip
    content = {"method": {"name": "remix"}}
    put(content, "method.with.ogm_ge.alpha", 0.3)
    assert (
        parse_run({"corpus": "c", **content}, "the test").method
        == parsed({"name": "remix", "with": {"ogm_ge": {"alpha": 0.3}}}).method
    )


@pytest.mark.parametrize("method", [{"name": "remix", "with": {"agm": {"end": 3}}}, {"name": "ogm_plus"}])
def test_a_written_configuration_is_read_again_as_itself(method: dict[str, Any]) -> None:
    config = parsed(method)
    content = config.model_dump(mode="json")
    assert parse_run(content, "again") == config
    assert "added" not in str(content)


def test_a_run_without_added_methods_keeps_its_digest() -> None:
    plain = parsed({"name": "remix"})
    assert plain.digest("d") == parsed({"name": "remix", "with": []}).digest("d")
    assert plain.digest("d") != parsed({"name": "remix", "with": ["agm"]}).digest("d")


@pytest.mark.parametrize(
    ("method", "others", "said"),
    [
        ({"name": "remix", "with": ["ogm_gee"]}, {}, "ogm_ge"),
        ({"name": "remix", "with": {"ogm_ge": {"alpha": -1}}}, {}, "`method.with.ogm_ge.alpha`"),
        ({"name": "remix", "with": {"ogm_ge": {"alpha": True}}}, {}, "`method.with.ogm_ge.alpha`"),
        ({"name": "remix", "with": {"ogm_ge": {"apha": 1}}}, {}, "alpha"),
        ({"name": "ogm_ge", "begin": 5, "end": 5}, {}, "`end` must be greater than `begin` (5), but is 5"),
        ({"name": "joint", "with": ["agm", "agm"]}, {}, "`method.with`"),
        ({"name": "aug", "fused_weight": 0}, {}, "`model.fusion: concat` without a loss; use decision"),
        ({"name": "joint", "with": ["agm", "ogm_ge"]}, {}, "ogm_ge and agm must not be combined"),
        ({"name": "joint_unimodal", "with": ["dgl", "mmpareto"]}, {}, "dgl and mmpareto must not be combined"),
        ({"name": "dgl", "alpha": 0}, {}, "`dgl` with `alpha: 0` leaves the encoders of `joint` without a loss"),
        ({"name": "joint", "with": ["mla", "mmcosine"]}, {}, "`mmcosine` and `mla` must not be combined"),
        ({"name": "joint_unimodal", "with": ["mla", "aug"]}, {}, "`aug` adds to the head of each modality, but with"),
        ({"name": "mmcosine"}, {"model": {"fusion": "sum"}}, "`mmcosine` is a form of `model.fusion: concat`"),
        ({"name": "joint", "with": ["tcmax", "dgl"]}, {}, "dgl and tcmax must not be combined"),
        ({"name": "lfm"}, {"model": {"fusion": "film"}}, "`lfm` needs the part of each modality"),
        ({"name": "unimodal", "modality": "audio", "with": ["agm"]}, {}, "with"),
        ({"name": "joint", "with": ["agm"]}, {"model": {"fusion": "film"}}, "use concat, sum or decision"),
        ({"name": "joint", "with": ["mmpareto"]}, {}, "use joint_unimodal or remix"),
        ({"name": "joint", "with": ["smv", "mla"]}, {}, "must not be combined, because each plans the epochs"),
        ({"name": "joint", "with": ["mla", "ogm"]}, {}, "which `mla` does not have; leave one of them out"),
        ({"name": "joint", "with": ["mla", "mmpareto"]}, {}, "use joint_unimodal or remix"),
        ({"name": "remix", "with": ["smv"]}, {}, "must not be combined, because each plans the epochs"),
        ({"name": "ogm"}, {"model": {"fusion": "gated"}}, "`ogm` needs the part of each modality"),
        (
            {"name": "remix", "order": "mixed", "accumulate": True, "with": ["agm"]},
            {},
            "`agm` needs the gradient of a whole step",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(method: dict[str, Any], others: dict[str, Any], said: str) -> None:
    assert said in problem(method, **others)


def test_options_may_be_given_as_objects() -> None:
    made = Additions(ogm_ge=OGMGEOptions(alpha=0.2))
    assert made.names() == ["ogm_ge"]
    assert made.model_dump() == {"ogm_ge": {"begin": 0, "end": None, "alpha": 0.2}}
