"""Reports over HTTP: whole, rendered outside the serving process, and harmless whatever a model names."""

import base64
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
from markdown_it import MarkdownIt

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.evaluate import evaluate
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from service.api.job_routes import MEDIA_TYPES
from service.problems import ProblemKind
from tests.networks import groupsort_net, to_file
from tests.service.conftest import lipserve, running, stopped_worker, two_moons, url_of
from tests.service.test_bad_input import check

pytest.importorskip("matplotlib", reason="reports are not installed: pip install 'lipcert[report]'")

EVALUATIONS = "/v1/models/hostile/evaluations"
NAMES = (
    "<script>alert(1)</script>",
    '"><img src=http://evil.invalid onerror=alert(1)>',
    "$x^$ ![a](http://evil.invalid/a) [b](javascript:alert(1)) | `c` {{ 7 * 7 }} -->",
    "d\n# heading\x01\r\n\n<b>",
)
RNG = np.random.default_rng(0)
ROWS = {
    "inputs": RNG.normal(size=(40, 4)).tolist(),
    "labels": RNG.integers(0, 4, 40).tolist(),
    "epsilons": [0.1],
    "attack": 10,
    "report": True,
}


def hostile():
    claims = Claims(norm=Norm.TWO, lipschitz=1.0, classes=NAMES)
    return to_file(groupsort_net((4, 8), 4), claims)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The answers to a request for each file of a report, and whether the serving process has what makes them."""
    folder = tmp_path_factory.mktemp("reports") / "models"
    folder.mkdir()
    (folder / "hostile.onnx").write_bytes(hostile())
    state = folder.parent / "state"
    with running(
        folder, state=state
    ):  # what makes the tables of a new database has a library of templates of its own
        pass
    with (
        lipserve("--models", folder, "--state", state, "--port", 0) as process,
        httpx.Client(base_url=url_of(process), timeout=60) as client,
    ):
        answer = client.post(EVALUATIONS, json=ROWS, headers={"Prefer": "wait=60"})
        assert answer.status_code == 200, answer.text
        place = answer.headers["content-location"]
        files = {name: client.get(f"{place}/report/{name}") for name in MEDIA_TYPES["evaluation"]}
        check(client.get(f"{place}/report/x.html"), ProblemKind.NO_REPORT, reason="evaluation.html, ")
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
    return answer.json(), files, mapped


def test_the_files_are_those_of_the_library(made):
    result, files, _ = made
    for name, answer in files.items():
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].partition(";")[0] == MEDIA_TYPES["evaluation"][name]
    predictor = CertifiedPredictor(hostile())
    expected = evaluate(predictor, ROWS["inputs"], ROWS["labels"], epsilons=[0.1], attacked=10).to_dict()
    told = files["evaluation.json"].json()
    titles = {"model": "hostile", "data": "the rows sent"}
    assert told == titles | {"bound_global": predictor.bounds(Norm.TWO).bound_global} | result
    assert told.items() >= json.loads(json.dumps(expected)).items()
    assert f"<b>{expected['clean_accuracy']:.2%}</b>" in files["evaluation.html"].text
    assert f"| clean accuracy | {expected['clean_accuracy']:.2%} |" in files["evaluation.md"].text
    assert files["curve.png"].content.startswith(b"\x89PNG")


def test_the_serving_process_renders_nothing(made):
    _, _, mapped = made
    assert "onnxruntime" in mapped  # what is loaded would be seen
    assert "matplotlib" not in mapped
    assert "markupsafe" not in mapped


def test_nothing_may_run_or_be_fetched(made):
    _, files, _ = made
    for answer in files.values():
        policy = dict(
            rule.strip().partition(" ")[::2] for rule in answer.headers["content-security-policy"].split(";")
        )
        assert policy == {
            "default-src": "'none'",
            "style-src": "'unsafe-inline'",
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
            "sandbox": "",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, text):
        self.text.append(text)


def test_names_are_text_in_the_page(made):
    page = Elements(made[1]["evaluation.html"].text)
    assert "script" not in {tag for tag, _ in page.found}
    for tag, attributes in page.found:
        assert attributes.keys() <= {"class", "src", "alt", "lang", "charset", "name", "content"}, tag
    assert {name.replace("\r", "") for name in NAMES} <= {text.replace("\r", "") for text in page.text}
    pictures = [attributes["src"].partition(",") for tag, attributes in page.found if tag == "img"]
    assert len(pictures) == 3
    for kind, _, content in pictures:
        assert kind == "data:image/svg+xml;base64"
        for element in ElementTree.fromstring(base64.b64decode(content)).iter():  # well formed
            assert element.tag.rpartition("}")[2] not in {"script", "a", "foreignObject"}
            links = [value for key, value in element.attrib.items() if key.endswith("href")]
            assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_names_are_text_in_markdown(made):
    told = made[1]["evaluation.md"].text
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(told)
    page = Elements(rendered)
    tags = {tag for tag, _ in page.found}
    assert tags == {"h1", "p", "a", "table", "thead", "tbody", "tr", "th", "td", "h2"}
    assert [a["href"] for tag, a in page.found if tag == "a"] == [
        "evaluation.json",
        "evaluation.html",
        "curve.svg",
    ]
    shown = {"".join(c if c.isprintable() else " " for c in name) for name in NAMES}
    assert shown <= set(page.text)


def test_no_report_unless_asked_for_and_done(serve, tmp_path):
    client = serve({"two-moons": two_moons()}, state=tmp_path / "state")
    url, body = "/v1/models/two-moons/evaluations", {"inputs": [[1, 2]], "labels": [0]}
    place = client.post(url, json=body, headers={"Prefer": "wait=60"}).headers["content-location"]
    check(client.get(f"{place}/report/evaluation.html"), ProblemKind.NO_REPORT, reason="is done and has no")
    place = client.post(url, json=body | {"report": True}, headers={"Prefer": "wait=0"}).headers["location"]
    stopped_worker(tmp_path / "state")
    check(client.get(f"{place}/report/evaluation.html"), ProblemKind.NO_REPORT, reason="is running")
    client.delete(place)
    check(client.get(f"{place}/report/evaluation.html"), ProblemKind.NO_REPORT, reason="is cancelled")
    check(client.get("/v1/evaluations/nope/report/evaluation.html"), ProblemKind.UNKNOWN_JOB)


def test_audits_have_reports_too(serve):
    client = serve({"hostile": hostile()})
    asked = {"samples": 40, "report": True}
    answer = client.post("/v1/models/hostile/audits", json=asked, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    place = answer.headers["content-location"]
    files = {name: client.get(f"{place}/report/{name}") for name in MEDIA_TYPES["audit"]}
    for name, file in files.items():
        assert file.status_code == 200, file.text
        assert file.headers["content-type"].partition(";")[0] == MEDIA_TYPES["audit"][name]
        assert "sandbox" in file.headers["content-security-policy"]
    assert files["audit.json"].json() == {"model": "hostile", "data": "random points"} | answer.json()
    page = Elements(files["audit.html"].text)
    assert "script" not in {tag for tag, _ in page.found}
    assert client.get(place).json()["parameters"]["report"] is True
    check(client.get(f"{place}/report/evaluation.html"), ProblemKind.NO_REPORT, reason="audit.html, ")
    answer = client.post("/v1/models/hostile/audits", json={"samples": 40}, headers={"Prefer": "wait=60"})
    place = answer.headers["content-location"]
    check(client.get(f"{place}/report/audit.html"), ProblemKind.NO_REPORT, reason="is done and has no")


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_report_that_cannot_be_made_is_refused_at_once(serve, monkeypatch, package):
    client = serve({"hostile": hostile()})
    monkeypatch.setitem(sys.modules, package, None)
    for kind, body in (("evaluations", ROWS), ("audits", {"report": True})):
        answer = client.post(f"/v1/models/hostile/{kind}", json=body)
        check(answer, ProblemKind.NOT_INSTALLED, reason="pip install 'lipcert[report]'")
        assert client.get(f"/v1/{kind}").json()["jobs"] == []
