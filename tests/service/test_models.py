import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from tests.service.conftest import two_moons


def test_the_list_names_every_model(client):
    body = client.get("/v1/models").json()
    assert [(m["name"], m["status"], m["version"]) for m in body["models"]] == [
        ("digits", "served", "1"),
        ("two-moons", "served", "1"),
    ]
    assert body["fault"] is None


def test_bounds_are_returned_for_every_norm(client):
    predictor = CertifiedPredictor(two_moons())
    body = client.get("/v1/models/two-moons").json()
    for norm in Norm:
        bounds = predictor.bounds(norm)
        assert body["bounds"][norm] == {
            "global": bounds.bound_global,
            "per_pair": bounds.bound_per_pair.tolist(),
        }
    assert body["sha256"] == predictor.file.sha256
    assert body["operators"] == predictor.file.operators
    assert body["input_shape"] == [2]
    assert body["input_size"] == 2
    assert body["input_box"] == [-2.0, 3.0]
    assert body["classes"] == ["lower", "upper"]
    assert body["default_norm"] == "2"
    assert body["dtype"] == "float32"
    assert body["claim"] == {"norm": "2", "lipschitz": 1.01, "proved": True}


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (Claims(), None),
        (Claims(norm=Norm.TWO, lipschitz=0.5), {"norm": "2", "lipschitz": 0.5, "proved": False}),
        (Claims(lipschitz=9.0), {"norm": None, "lipschitz": 9.0, "proved": False}),
    ],
)
def test_a_claim_is_shown_beside_the_proof(serve, claims, expected):
    client = serve({"m": two_moons(claims)})
    assert client.get("/v1/models/m").json()["claim"] == expected


def test_an_unknown_model_is_a_404_that_lists_the_known(client):
    answer = client.get("/v1/models/nope")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "no model is named 'nope'; models served: 'digits', 'two-moons'"
