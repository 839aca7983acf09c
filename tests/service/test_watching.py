"""Changes of the models folder are reloaded while it is served, completely or not at all."""

import asyncio
import gc
import os
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import onnx
import pytest

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from service.models.assembly import UNLOADED
from service.models.load_requests import LoadRequests
from service.models.policy import Action, Policy
from service.problems import Problem, ProblemKind
from tests.networks import groupsort_net, linear_net, to_file
from tests.service.conftest import digits, eventually, models_of, running, two_moons
from tests.service.test_bad_input import check

RNG = np.random.default_rng(11)


def moons(seed):
    """Another model that clients of :func:`two_moons` need not tell from it."""
    return to_file(groupsort_net((2, 8), 2, seed=seed), Claims(norm=Norm.TWO, classes=("lower", "upper")))


def put(path, content):
    """As the documentation says: written beside, then renamed."""
    path.parent.mkdir(exist_ok=True, parents=True)
    beside = path.with_name(".beside")
    beside.write_bytes(content)
    beside.rename(path)


def external(content, location):
    """The same model with its weights in another file; that file's content, too."""
    proto, weights = onnx.load_from_string(content), b""
    for tensor in proto.graph.initializer:
        raw = onnx.numpy_helper.to_array(tensor).tobytes()
        tensor.ClearField("float_data")
        tensor.raw_data = raw
        onnx.external_data_helper.set_external_data(tensor, location, offset=len(weights), length=len(raw))
        tensor.ClearField("raw_data")
        weights += raw
    return proto.SerializeToString(), weights


def sha(registry, name="m", version=None):
    return registry.find(name, version).predictor.file.sha256


def settle(models):
    """Poll twice: a file that has changed may be half written, so it counts once it is seen again."""
    for _ in range(2):
        models.poll()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_no_request_fails_or_sees_two_models_while_files_are_swapped(folder):
    contents = [moons(seed) for seed in range(3)]
    x = RNG.normal(size=(5, 2))
    expected = {}
    for content in contents:
        predictor = CertifiedPredictor(content)
        answer = predictor.predict(x)
        expected[predictor.file.sha256] = (answer.scores.tolist(), answer.radii.certified_radius.tolist())
    put(folder / "m.onnx", contents[0])
    seen, stop = set(), threading.Event()
    with running(folder, poll_seconds=0.02) as client:

        def ask():
            with httpx.Client(base_url=client.base_url) as mine:
                while not stop.is_set():
                    answer = mine.post("/v1/models/m/predict", json={"inputs": x.tolist()})
                    assert answer.status_code == 200, answer.text
                    body = answer.json()
                    rows = body["predictions"]
                    told = ([p["scores"] for p in rows], [p["certified_radius"] for p in rows])
                    assert told == expected[body["model"]["sha256"]]
                    seen.add(body["model"]["sha256"])

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask) for _ in range(4)]
            try:
                for i in range(1, 13):
                    digest = list(expected)[i % 3]
                    put(folder / "m.onnx", contents[i % 3])
                    eventually(lambda d=digest: client.get("/v1/models/m").json()["sha256"] == d)
            finally:
                stop.set()
            for one in asked:
                one.result()
    assert seen == expected.keys()


def test_a_half_written_file_is_waited_for(folder):
    old, new = two_moons(), digits()
    put(folder / "m.onnx", old)
    models = models_of(folder)
    before = sha(models.current)
    with (folder / "m.onnx").open("wb") as file:
        for part in (new[:100], new[100:2000], new[2000:-10]):
            file.write(part)
            file.flush()
            models.poll()
            assert sha(models.current) == before
            assert models.current.models["m"].reason == ""
        models.poll()  # nothing has come since: so much is told, and the old goes on
        assert sha(models.current) == before
        assert "version 1: not an ONNX model, or a truncated one" in models.current.models["m"].reason
        file.write(new[-10:])
    models.poll()
    assert sha(models.current) == CertifiedPredictor(new).file.sha256
    assert models.current.models["m"].reason == ""


def test_a_file_that_changes_while_it_is_read_is_waited_for(folder, monkeypatch):
    from lipmodel.network.reader.read import read_onnx

    put(folder / "m.onnx", two_moons())
    models = models_of(folder)
    before, last = sha(models.current), moons(2)

    def read(path, **options):
        file = read_onnx(path, **options)
        if path.read_bytes() != last:
            path.write_bytes(last)
        return file

    monkeypatch.setattr("service.models.reader.read_onnx", read)
    put(folder / "m.onnx", moons(1))
    models.poll()
    assert sha(models.current) == before
    models.poll()
    assert sha(models.current) == CertifiedPredictor(last).file.sha256


def test_removed_files_are_dropped_by_the_next_poll(folder):
    put(folder / "m.onnx", two_moons())
    put(folder / "n.onnx", digits())
    models = models_of(folder)
    (folder / "m.onnx").unlink()
    models.poll()
    assert "m" in models.current.defaults  # it may be about to come back
    put(folder / "m.onnx", two_moons())
    settle(models)
    assert "m" in models.current.defaults
    (folder / "m.onnx").unlink()
    settle(models)
    assert list(models.current.models) == ["n"]
    with pytest.raises(Problem, match="no model is named 'm'; models served: 'n'"):
        models.current.find("m")


def test_a_model_replaced_by_garbage_stays_served_and_is_reported(folder, caplog):
    put(folder / "m.onnx", two_moons())
    with running(folder, poll_seconds=0.02) as client:
        before = client.get("/v1/models/m").json()
        assert before["fault"] is None
        put(folder / "m.onnx", b"garbage")
        eventually(lambda: client.get("/v1/models/m").json()["fault"])
        body = client.get("/v1/models/m").json()
        assert body["sha256"] == before["sha256"]
        assert body["fault"].startswith("version 1: not an ONNX model")
        assert body["versions"][0]["status"] == "served"
        assert body["versions"][0]["reason"].startswith("not an ONNX model")
        (listed,) = client.get("/v1/models").json()["models"]
        assert listed.items() <= body.items()
        assert client.post("/v1/models/m/predict", json={"inputs": [[1, 2]]}).status_code == 200
        assert client.get("/readyz").json().items() >= {"status": "ready", "served": 1, "refused": 0}.items()
        put(folder / "m.onnx", digits())
        eventually(lambda: client.get("/v1/models/m").json()["input_size"] == 16)
        assert client.get("/v1/models/m").json()["fault"] is None
    assert "model 'm': version 1 refused: not an ONNX model" in caplog.text
    assert "its former content stays in use" in caplog.text


def test_the_same_bytes_are_one_predictor_wherever_they_lie(folder, monkeypatch):
    put(folder / "a.onnx", two_moons())
    put(folder / "b.onnx", two_moons())
    put(folder / "c" / "7" / "model.onnx", two_moons())
    models = models_of(folder)
    served = models.current.defaults
    assert served["a"].predictor is served["b"].predictor is served["c"].predictor
    assert served["c"].version == "7"
    monkeypatch.setattr("service.models.reader.CertifiedPredictor", None)  # nothing may be derived again
    (folder / "a.onnx").rename(folder / "z.onnx")
    put(folder / "b.onnx", two_moons())
    settle(models)
    assert models.current.defaults.keys() == {"b", "c", "z"}
    assert models.current.defaults["z"].predictor is served["a"].predictor
    assert models.current.defaults["b"] is served["b"]


def test_weights_beside_a_file_belong_to_it(folder):
    one, weights = external(moons(1), "m.onnx.data")
    other, other_weights = external(moons(2), "m.onnx.data")
    (folder / "m.onnx.data").write_bytes(weights)
    (folder / "m.onnx").write_bytes(one)
    models = models_of(folder)
    x = RNG.normal(size=(3, 2))
    assert one == other
    put(folder / "m.onnx.data", other_weights)
    models.poll()
    scores = models.current.find("m").predictor.predict(x).scores
    assert scores.tolist() == CertifiedPredictor(moons(2)).predict(x).scores.tolist()


def test_replaced_models_are_freed(folder):
    contents = [to_file(linear_net(RNG.normal(size=(2, 2)))) for _ in range(2)]
    put(folder / "m.onnx", contents[0])
    models = models_of(folder)
    gc.collect()
    gc.disable()  # it must not take a collection: sessions are large
    try:
        for i in range(20):
            model = models.current.find("m")
            model.predictor.predict(np.zeros((1, 2)))
            predictor, session = weakref.ref(model.predictor), weakref.ref(model)
            put(folder / "m.onnx", contents[(i + 1) % 2])
            models.poll()
            assert predictor() is not None  # the request that holds it goes on
            del model
            assert predictor() is None
            assert session() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_thousands_of_reloads_leak_nothing(folder):
    contents = [to_file(linear_net(RNG.normal(size=(2, 2)))) for _ in range(2)]
    put(folder / "m.onnx", contents[0])
    models = models_of(folder)

    def reload(times):
        for i in range(times):
            put(folder / "m.onnx", contents[(i + 1) % 2])
            models.poll()
            assert sha(models.current) == digests[(i + 1) % 2]
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    digests = [CertifiedPredictor(content).file.sha256 for content in contents]
    settled = reload(500)
    assert reload(2000) - settled < 4 * 2**20


def test_settings_are_reloaded_without_reading_the_model_again(folder):
    put(folder / "m.onnx", two_moons())
    models = models_of(folder)
    predictor = models.current.find("m").predictor
    (folder / "m.toml").write_text('[policy]\nepsilon = 0.5\naction = "abstain"')
    models.poll()
    assert models.current.find("m").settings.policy == Policy(BALLS[Norm.TWO])  # it may be half written
    models.poll()
    model = models.current.find("m")
    assert model.settings.policy == Policy(BALLS[Norm.TWO], 0.5, Action.ABSTAIN)
    assert model.predictor is predictor
    (folder / "m.toml").write_text("[policy]\nepsilon = 'much'")
    settle(models)
    assert models.current.find("m") is model
    assert "policy.epsilon is 'much'" in models.current.models["m"].reason
    (folder / "m.toml").unlink()
    settle(models)
    assert models.current.find("m").settings.policy == Policy(BALLS[Norm.TWO])
    assert models.current.models["m"].reason == ""


def test_a_model_is_never_served_without_its_policy(folder):
    put(folder / "bad.onnx", two_moons())
    (folder / "bad.toml").write_text("[policy]\nepsilon = -1")
    models = models_of(folder)
    with pytest.raises(
        Problem, match=r"model 'bad' is refused: its settings are not accepted: policy.epsilon is '-1'"
    ):
        models.current.find("bad")
    put(folder / "new" / "1" / "model.onnx", two_moons())
    (folder / "new" / "model.toml").write_text("[policy]\n")
    models.poll()
    assert "new" not in models.current.models
    (folder / "new" / "model.toml").write_text("[policy]\nepsilon = 2.0\n")
    models.poll()
    assert "new" not in models.current.models
    models.poll()
    assert models.current.find("new").settings.policy.epsilon == 2.0


def test_versions_and_labels(folder):
    for version in ("1", "2", "10"):
        put(folder / "m" / version / "model.onnx", moons(int(version)))
    for name in ("0", "01", "-3", "x", "4.0", ".5"):
        put(folder / "m" / name / "model.onnx", moons(1))
    (folder / "m" / "11").mkdir()
    put(folder / "m" / "labels.json", b'{"canary": "10", "stable": "2"}')
    models = models_of(folder)
    registry = models.current
    assert list(registry.models["m"].served) == ["1", "2", "10"]
    assert registry.models["m"].labels == {"latest": "10", "canary": "10", "stable": "2"}
    assert registry.find("m").version == registry.find("m", "canary").version == "10"
    assert registry.find("m", "stable").version == registry.find("m", "2").version == "2"
    with pytest.raises(Problem, match="version 11 of model 'm' is refused: the file cannot be read"):
        registry.find("m", "11")
    with pytest.raises(
        Problem, match="model 'm' has no version '12'; versions and labels: '1', '2', '10', 'latest'"
    ):
        registry.find("m", "12")
    put(folder / "m" / "labels.json", b'{"latest": "2"}')
    settle(models)
    assert models.current.find("m").version == models.current.find("m", "latest").version == "2"
    shutil.rmtree(folder / "m" / "2")
    settle(models)
    with pytest.raises(Problem, match="the label 'latest' names version 2, which is not served"):
        models.current.find("m")
    assert models.current.find("m", "10").version == "10"


@pytest.mark.parametrize(
    "labels",
    [b"", b"[]", b'{"canary": 2}', b'{"2": "1"}', b'{"a b": "1"}', b'{"a": "0"}', b"[" * 60000, b"\xff"],
)
def test_labels_that_make_no_sense_are_refused(folder, labels):
    put(folder / "m" / "1" / "model.onnx", two_moons())
    put(folder / "m" / "labels.json", labels)
    with pytest.raises(Problem, match="its labels "):
        models_of(folder).current.find("m")


def test_two_files_for_one_thing_are_refused(folder):
    put(folder / "m.onnx", two_moons())
    put(folder / "m" / "1" / "model.onnx", two_moons())
    put(folder / "m" / "2" / "model.onnx", two_moons())
    put(folder / "n.onnx", two_moons())
    put(folder / "n" / "model.toml", b"")
    put(folder / "n.toml", b"")
    registry = models_of(folder).current
    assert registry.find("m").version == "2"
    assert registry.models["m"].refused == {"1": "m.onnx and m/1/model.onnx both exist; remove one of them"}
    with pytest.raises(Problem, match=r"n.toml and n/model.toml both exist"):
        registry.find("n")


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    put(tmp_path / "elsewhere" / "1" / "model.onnx", two_moons())
    (tmp_path / "secret.toml").write_text("secret = 1")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    put(folder / "m.onnx", two_moons())
    (folder / "m.toml").symlink_to(tmp_path / "secret.toml")
    registry = models_of(folder).current
    assert not registry.defaults
    for name in ("linked", "m"):
        assert "it is a link to a file outside the models folder" in registry.refused[name]


def test_models_of_a_removed_folder_stay_served(folder):
    put(folder / "m.onnx", two_moons())
    models = models_of(folder)
    folder.rename(folder.with_name("gone"))
    settle(models)
    assert "m" in models.current.defaults
    assert "cannot be read" in models.current.fault
    folder.with_name("gone").rename(folder)
    models.poll()
    assert models.current.fault is None


def test_unloading_frees_a_model_until_it_is_loaded_or_changed(folder):
    put(folder / "m.onnx", two_moons())
    put(folder / "n.onnx", two_moons())

    async def go():
        models = models_of(folder)
        predictor = weakref.ref(models.current.find("m").predictor)
        for name in ("m", "n"):
            await models.unload(name)
        assert predictor() is None
        settle(models)
        with pytest.raises(Problem, match="model 'm' is refused: it was unloaded") as caught:
            models.current.find("m")
        assert caught.value.kind is ProblemKind.MODEL_REFUSED
        assert (await models.load("m")).name == "m"
        assert "m" in models.current.defaults
        put(folder / "n.onnx", digits())
        models.poll()
        assert sha(models.current, "n") == CertifiedPredictor(digits()).file.sha256
        await models.unload("m")
        (folder / "m.onnx").unlink()
        models.poll()
        assert "m" not in models.current.models
        for asked in (models.load("nope"), models.unload("nope")):
            with pytest.raises(Problem, match="no model is named 'nope'"):
                await asked
        put(folder / "n.onnx", b"garbage")
        await models.load("n")  # the file is refused, so what was there goes on
        assert "n" in models.current.defaults
        models.stop()

    asyncio.run(go())


def test_loads_and_unloads_reach_every_process_of_a_service(folder, tmp_path):
    put(folder / "m.onnx", two_moons())
    put(folder / "n.onnx", b"garbage")
    path = tmp_path / "loads.json"

    async def go():
        one, other = (models_of(folder, requests=LoadRequests(path)) for _ in range(2))
        await one.unload("m")
        other.poll()
        for models in (one, other, models_of(folder, requests=LoadRequests(path))):  # and one started later
            assert models.current.models["m"].reason == UNLOADED
        await other.load("m")
        one.poll()
        assert set(one.current.defaults) == set(other.current.defaults) == {"m"}
        tried, read = [], one._read
        one._read = lambda slot, found: tried.append(slot.name) or read(slot, found)
        with pytest.raises(Problem, match="model 'n' is refused"):
            await other.load("n")
        for _ in range(5):
            one.poll()
        assert tried == ["n", "n"]  # once, and once more as it may have been half written
        one.stop()
        other.stop()

    asyncio.run(go())


def test_a_damaged_file_of_loads_leaves_them_as_they_were(folder, tmp_path, caplog):
    put(folder / "m.onnx", two_moons())
    path = tmp_path / "loads.json"

    async def go():
        models = models_of(folder, requests=LoadRequests(path))
        await models.unload("m")
        for damaged in (b"{", b"[]", b'{"m": 1}', b'{"m": [1]}'):
            path.write_bytes(damaged)
            models.poll()
            assert models.current.models["m"].reason == UNLOADED
        await models.load("m")
        assert "m" in models.current.defaults
        models.stop()

    asyncio.run(go())
    assert caplog.text.count("of other processes cannot be read") == 1


def test_requests_of_many_models_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("service.models.load_requests.MAX_KEPT", 3)
    requests = LoadRequests(tmp_path / "loads.json")
    for name in ("a", "b", "c", "a", "d"):
        requests.add(name, None)
    assert list(LoadRequests(tmp_path / "loads.json").read()) == ["c", "a", "d"]


def test_versions_have_routes_of_their_own(folder):
    put(folder / "m" / "1" / "model.onnx", moons(1))
    put(folder / "m" / "2" / "model.onnx", moons(2))
    put(folder / "m" / "3" / "model.onnx", b"bad")
    put(folder / "m" / "labels.json", b'{"old": "1"}')
    with running(folder) as client:
        for asked, version in [("1", "1"), ("old", "1"), ("2", "2"), ("latest", "2")]:
            place = f"/v1/models/m/versions/{asked}"
            body = client.post(f"{place}/predict", json={"inputs": [[1, 2]]}).json()
            assert body["model"]["version"] == client.get(place).json()["version"] == version
            assert body["model"]["sha256"] == CertifiedPredictor(moons(int(version))).file.sha256
        audit = client.post(
            "/v1/models/m/versions/old/audits", json={"samples": 10}, headers={"Prefer": "wait=60"}
        )
        assert audit.json()["sha256"] == CertifiedPredictor(moons(1)).file.sha256
        for path in ("/v1/models/m/versions/4", "/v1/models/m/versions/nope/predict"):
            method = "GET" if path.endswith("4") else "POST"
            check(client.request(method, path, json={"inputs": [[1, 2]]}), ProblemKind.UNKNOWN_VERSION)
        refused = client.get("/v1/models/m/versions/3")
        check(refused, ProblemKind.MODEL_REFUSED, reason="version 3 of model 'm'")
        detail = client.get("/v1/models/m").json()
        assert detail["labels"] == {"latest": "2", "old": "1"}
        statuses = {v["version"]: v["status"] for v in detail["versions"]}
        assert statuses == {"1": "served", "2": "served", "3": "refused"}
        assert detail["fault"].startswith("version 3: not an ONNX model")
