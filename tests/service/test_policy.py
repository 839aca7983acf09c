"""The policy of a model: one function over radii, and what a client sees of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import InputError, ModelError
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from service.models.policy import MAX_ROWS_NAMED, Action, Policy, judge
from service.models.settings import ModelSettings, parse_settings
from service.problems import Problem, ProblemKind
from tests.service.conftest import two_moons
from tests.service.test_bad_input import check

PREDICT = "/v1/models/two-moons/predict"
INPUTS = [[0.5, 0.25], [1.0, 2.0], [-1.0, 0.5]]
RADII = CertifiedPredictor(two_moons()).predict(INPUTS).radii.certified_radius.tolist()
BETWEEN = sorted(RADII)[1]
"""An epsilon that the smallest of the radii is below."""

radii = st.lists(st.sampled_from([0.0, 5e-324, 0.1, 0.5, 0.5000000000000001, 7.0]), min_size=1, max_size=30)
epsilons = st.none() | st.sampled_from([0.0, 5e-324, 0.1, 0.5, 7.0, 8.0])


@given(radii, epsilons, epsilons, st.sampled_from(Action), st.sampled_from(Norm))
def test_the_policy_is_applied_to_each_answer(radii, wanted, asked, action, norm):
    policy = Policy(BALLS[Norm.TWO], wanted, action)
    binding = wanted is not None and action is not Action.FLAG
    if binding:
        norm = Norm.TWO
    below = [not (r > 0 and r >= wanted) for r in radii] if binding else [False] * len(radii)
    if action is Action.REJECT and any(below):
        with pytest.raises(Problem) as caught:
            judge(policy, BALLS[norm], np.array(radii), asked)
        assert caught.value.kind is ProblemKind.BELOW_POLICY
        named = [error.field for error in caught.value.errors]
        assert named == [f"inputs[{i}]" for i, is_below in enumerate(below) if is_below][:MAX_ROWS_NAMED]
        return
    judgement = judge(policy, BALLS[norm], np.array(radii), asked)
    abstained = [False] * len(radii) if judgement.abstained is None else judgement.abstained.tolist()
    assert abstained == below
    epsilon = asked if asked is not None else wanted if norm is Norm.TWO else None
    if epsilon is None:
        assert judgement.certified is None
    else:
        assert judgement.certified.tolist() == [r > 0 and r >= epsilon for r in radii]


@pytest.mark.parametrize("action", Action)
def test_where_answers_may_be_held_back_only_the_policys_norm_is_answered_in(action):
    policy = Policy(BALLS[Norm.INF], 0.1, action)
    assert policy.threat_for(None, "norm") is BALLS[Norm.INF]
    assert policy.threat_for(BALLS[Norm.INF], "norm") is BALLS[Norm.INF]
    if action is Action.FLAG:
        assert policy.threat_for(BALLS[Norm.ONE], "norm") is BALLS[Norm.ONE]
    else:
        with pytest.raises(InputError, match=rf"is '1'; .* only 'inf', the norm of its policy '{action}'"):
            policy.threat_for(BALLS[Norm.ONE], "norm")


def served_with(serve, tmp_path, settings):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "two-moons.toml").write_text(settings)
    return serve({"two-moons": two_moons()})


def ask(client, **more):
    answer = client.post(PREDICT, json={"inputs": INPUTS, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def test_flag_answers_all_and_says_which_are_certified(serve, tmp_path):
    client = served_with(serve, tmp_path, f"[policy]\nepsilon = {BETWEEN!r}")
    told = ask(client)
    assert [p["certified"] for p in told] == [r >= BETWEEN for r in RADII]
    assert all(p["label"] is not None and p["abstained"] is False for p in told)
    assert [p["certified"] for p in ask(client, epsilon=0)] == [True] * 3
    assert [p["certified"] for p in ask(client, norm="inf")] == [None] * 3
    policy = client.get("/v1/models/two-moons").json()["policy"]
    assert policy == {"norm": "2", "threat": None, "epsilon": BETWEEN, "action": "flag"}


def test_abstain_withholds_the_label_and_nothing_else_and_is_counted(serve, tmp_path):
    client = served_with(serve, tmp_path, f'[policy]\nepsilon = {BETWEEN!r}\naction = "abstain"')
    for more in ({}, {"epsilon": 0}):  # an epsilon of the request changes nothing of it
        told = ask(client, **more)
        for prediction, radius in zip(told, RADII, strict=True):
            withheld = radius < BETWEEN
            assert prediction["abstained"] is withheld
            assert (prediction["label"] is None) is (prediction["label_index"] is None) is withheld
            assert prediction["certified_radius"] == radius
            assert prediction["certified"] is (bool(more) or not withheld)
    check(
        client.post(PREDICT, json={"inputs": INPUTS, "norm": "inf"}),
        ProblemKind.INVALID_INPUT,
        "norm",
        "this model accepts only '2', the norm of its policy",
    )
    assert 'lipserve_abstentions_total{model="two-moons"} 2.0' in client.get("/metrics").text


def test_reject_names_the_rows(serve, tmp_path):
    client = served_with(serve, tmp_path, f'[policy]\nepsilon = {BETWEEN!r}\naction = "reject"')
    row = RADII.index(min(RADII))
    body = check(
        client.post(PREDICT, json={"inputs": INPUTS}),
        ProblemKind.BELOW_POLICY,
        f"inputs[{row}]",
        f"the policy of this model requires {BETWEEN}",
    )
    assert len(body["errors"]) == 1
    good = [x for i, x in enumerate(INPUTS) if i != row]
    assert client.post(PREDICT, json={"inputs": good}).status_code == 200


def test_a_request_without_a_norm_is_answered_in_the_policys(serve, tmp_path):
    client = served_with(serve, tmp_path, '[policy]\nnorm = "inf"')
    assert {p["norm"] for p in ask(client)} == {"inf"}


def test_settings_are_read():
    settings = parse_settings(
        b'[policy]\nnorm = "1"\nepsilon = 1\naction = "reject"\n[serving]\nexecution = "float32"'
    ).of(CertifiedPredictor(two_moons()))
    assert settings == ModelSettings(Policy(BALLS[Norm.ONE], 1.0, Action.REJECT), "float32")
    default = ModelSettings(Policy(BALLS[Norm.TWO], None, Action.FLAG), "float64")
    assert parse_settings(b"").of(CertifiedPredictor(two_moons())) == default


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[policy", "cannot be read as TOML"),
        ("\xff", "cannot be read as TOML"),
        ("x = " + "[" * 5000, "cannot be read as TOML"),
        ("[polcy]\nepsilon = 1", "unknown key polcy; known keys are policy, serving, threats"),
        ("[policy]\neps = 1", "unknown key policy.eps; known keys are norm, threat, epsilon, action"),
        ("policy = 3", "policy is '3'"),
        ("[policy]\nnorm = 2", "policy.norm is '2': input should be '1', '2' or 'inf'"),
        ('[policy]\nepsilon = "1"', "policy.epsilon is '1': input should be a valid number"),
        ("[policy]\nepsilon = true", "policy.epsilon is 'True'"),
        ("[policy]\nepsilon = -0.1", "policy.epsilon is '-0.1': input should be greater than or equal to 0"),
        ("[policy]\nepsilon = nan", "policy.epsilon is 'nan': input should be"),
        ("[policy]\nepsilon = inf", "policy.epsilon is 'inf': input should be a finite number"),
        (
            '[policy]\nepsilon = 1\naction = "drop"',
            "policy.action is 'drop': input should be 'flag', 'abstain'",
        ),
        ('[policy]\naction = "abstain"', "policy.epsilon is missing, and the action 'abstain' needs it"),
        (
            '[serving]\nexecution = "int8"',
            "serving.execution is 'int8': input should be 'float64' or 'float32'",
        ),
        ("[serving]\nthreads = 2", "unknown key serving.threads; known keys are execution"),
    ],
)
def test_settings_that_make_no_sense_are_refused(text, told):
    with pytest.raises(ModelError) as caught:
        parse_settings(text.encode("latin-1"))
    assert told in str(caught.value)


def test_a_radius_that_is_no_number_is_never_certified():
    judgement = judge(
        Policy(BALLS[Norm.TWO], 0.0, Action.ABSTAIN), BALLS[Norm.TWO], np.array([math.nan, 1.0]), None
    )
    assert judgement.certified.tolist() == [False, True]
    assert judgement.abstained.tolist() == [True, False]
