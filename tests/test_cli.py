"""The lipmodel command: output for people and machines, and exit statuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.cli import main
from lipmodel.data.load import load_labelled, load_parts
from lipmodel.display import certified_percent, certified_radius, rounded, rounded_down, rounded_up
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.threat import Threat
from tests.networks import groupsort_net, to_file

HONEST, LYING = Claims(Norm.TWO, 1.001, ("a", "b", "c"), (-1.0, 1.0)), Claims(Norm.TWO, 0.3)


@pytest.fixture
def folder(tmp_path):
    graph = groupsort_net((4, 16, 16), 3)
    (tmp_path / "net.onnx").write_bytes(to_file(graph, HONEST))
    (tmp_path / "liar.onnx").write_bytes(to_file(graph, LYING))
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    x = np.random.default_rng(0).normal(size=(30, 4))
    np.save(tmp_path / "x.npy", x)
    labels = CertifiedPredictor(tmp_path / "net.onnx").predict(x).radii.label
    np.savez(tmp_path / "data.npz", inputs=x, labels=labels)
    return tmp_path


def run(*arguments, status=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result


def run_json(*arguments, status=0):
    return json.loads(run(*arguments, "--json", status=status).stdout)


def test_inspect(folder):
    output = run_json("inspect", folder / "net.onnx")
    assert output["status"] == "proved"
    assert output["reason"] is None
    assert output["ops"]["Gemm"] == 3
    assert set(output["bounds"]) == {"1", "2", "inf"}
    assert output["bounds"]["2"]["global"] == pytest.approx(1, abs=1e-6)
    assert len(output["bounds"]["2"]["per_pair"]) == 3
    assert output["claim"] == {"norm": "2", "lipschitz": 1.001, "proved": True}
    assert output["unchecked_claims"] == ["classes", "input_box"]
    shown = run("inspect", folder / "net.onnx").output
    assert "1.001-Lipschitz in l2: proved" in shown
    assert "unchecked  classes, input_box: claims of the file" in shown


def test_inspect_with_tightness(folder):
    x = np.load(folder / "x.npy")[:3]
    np.savez(folder / "few.npz", inputs=x, labels=np.arange(3))
    output = run_json("inspect", folder / "net.onnx", "--tightness", folder / "few.npz")["tightness"]
    assert 0.0 < output["lipschitz"] <= output["local"] <= 1.0
    assert output["norm"] == "2"
    assert output["points"] == 3
    assert "radius / attack" in run("inspect", folder / "net.onnx", "--tightness", folder / "few.npz").output


def test_certify_tightens(folder):
    fast = run_json("certify", folder / "net.onnx", "--inputs", folder / "x.npy")["predictions"]
    slow = run_json("certify", folder / "net.onnx", "--inputs", folder / "x.npy", "--tighten")["predictions"]
    for before, after in zip(fast, slow, strict=True):
        assert "method" not in before
        assert after["certified_radius"] >= before["certified_radius"]
        assert (after["method"] == "local") == (after["certified_radius"] > before["certified_radius"])
        assert after["seconds"] >= 0.0
    assert any(row["method"] == "local" for row in slow)


def test_certificates_of_tightened_radii_hold_what_mixtures_prove(folder):
    arguments = ("certify", folder / "net.onnx", "--inputs", folder / "x.npy", "--tighten")
    rows = run_json(*arguments, "--certificates", folder / "mixed")["predictions"]
    for index, row in enumerate(rows):
        stated = json.loads((folder / "mixed" / f"{index}.json").read_text())["certified_radius"]
        assert stated == row["certified_radius"] or row["method"] == "local"
        assert run("verify", folder / "mixed" / f"{index}.json", "--model", folder / "net.onnx")


def test_inspect_of_a_claim_below_the_proof_is_a_negative_finding(folder):
    output = run_json("inspect", folder / "liar.onnx", status=1)
    assert output["status"] == "unproved"
    assert "0.3" in output["reason"]
    assert "the proved bound is" in run("inspect", folder / "liar.onnx", status=1).output


def test_inspect_of_a_refused_file_is_a_negative_finding(folder):
    output = run_json("inspect", folder / "bad.onnx", status=1)
    assert output["status"] == "refused"
    assert "not an ONNX model" in output["reason"]
    assert "refused: not an ONNX model" in run("inspect", folder / "bad.onnx", status=1).output
    assert "does not exist" in run("inspect", folder / "gone.onnx", status=2).output


def test_certify_for_a_threat_set(folder):
    described = {"norm": "inf", "scale": {"0": 2, "2": 0}}
    (folder / "threat.json").write_text(json.dumps(described))
    command = ("certify", folder / "net.onnx", "--inputs", folder / "x.npy")
    threat = Threat(Norm.INF, (2.0, 1.0, 0.0, 1.0))
    expected = CertifiedPredictor(folder / "net.onnx").predict(np.load(folder / "x.npy"), threat).radii
    for options in (
        ("--threat", json.dumps(described)),
        ("--threat", folder / "threat.json"),
        ("--norm", "linf", "--scale", "0=2", "--freeze", "2"),
        ("--norm", "linf", "--scale", "0=2,2=0"),
    ):
        output = run_json(*command, *options)
        assert [
            row["certified_radius"] for row in output["predictions"]
        ] == expected.certified_radius.tolist()
        assert (output["norm"], output["scale"]) == ("inf", [2.0, 1.0, 0.0, 1.0])
    assert (
        "scaled linf, 1 of 4 columns frozen"
        in run(*command, "--scale", "0=2", "--freeze", "2", "--norm", "inf").output
    )
    run(*command, "--scale", "0=2", "--freeze", "2", "--certificates", folder / "proofs")
    verify = ("verify", folder / "proofs" / "3.json", "--model", folder / "net.onnx")
    assert "holds" in run(*verify).output
    altered = (folder / "proofs" / "3.json").read_text().replace('"scale": [2.0,', '"scale": [3.0,')
    (folder / "proofs" / "3.json").write_text(altered)
    assert "fails" in run(*verify, status=1).output


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--threat", '{"scale": 1}', "--norm", "l2"), "cannot be combined"),
        (("--threat", "{nonsense"), "no JSON object"),
        (("--threat", '{"scale": {"age": 1}}'), "threat.scale.age is no column of this model"),
        (("--scale", "0"), "COLUMN=SIZE is accepted"),
        (("--scale", "0=-1"), "threat.scale.0 is -1.0"),
        (("--scale", "0=nan"), "threat.scale.0 is not a number"),
        (("--scale", "0=1", "--freeze", "0"), "'0' is in both"),
        (("--freeze", "9"), "threat.scale.9 is no column"),
        (("--freeze", "*"), "freezes every column"),
        (("--freeze", "0", "--out", "results"), "--out accepts the ball of a --norm"),
    ],
)
def test_options_that_are_no_threat_set_are_refused(folder, options, reason):
    result = run("certify", folder / "net.onnx", "--inputs", folder / "x.npy", *options, status=2)
    assert reason in " ".join(result.output.split())


def test_a_file_of_a_threat_set_that_is_missing(folder):
    result = run(
        "certify", folder / "net.onnx", "--inputs", folder / "x.npy", "--threat", "nothere.json", status=2
    )
    assert "nothere.json" in result.output


@pytest.mark.parametrize(("name", "norm"), [("1", Norm.ONE), ("l2", Norm.TWO), ("LINF", Norm.INF)])
def test_certify(folder, name, norm):
    output = run_json("certify", folder / "net.onnx", "--inputs", folder / "x.npy", "--norm", name)
    radii = CertifiedPredictor(folder / "net.onnx").predict(np.load(folder / "x.npy"), norm).radii
    assert [p["certified_radius"] for p in output["predictions"]] == radii.certified_radius.tolist()
    portable = CertifiedPredictor(folder / "net.onnx").portable_radii(np.load(folder / "x.npy"), norm)
    assert [p["radius_float32_portable"] for p in output["predictions"]] == portable.tolist()
    assert output["norm"] == norm.value
    shown = run("certify", folder / "net.onnx", "--inputs", folder / "x.npy", "--norm", name).output
    assert f"radii in {norm.symbol}" in shown
    assert "10 more" in shown


def test_evaluate(folder):
    data, sizes = ("--data", folder / "data.npz"), ("--eps", "0.1", "--eps", "1.58")
    arguments = ("evaluate", folder / "net.onnx", *data, *sizes)
    output = run_json(*arguments)
    assert output["clean_accuracy"] == 1.0
    assert set(output["certified_accuracy"]) == {"0.1", "1.58"}
    shown = run(*arguments).output
    assert "certified accuracy at 0.1" in shown
    assert f"{output['majority_share']:.2%}" in shown


def test_evaluate_under_attack_and_tightened(folder):
    arguments = ("evaluate", folder / "net.onnx", "--data", folder / "data.npz", "--eps", "0.05")
    plain = run_json(*arguments)
    output = run_json(*arguments, "--tighten", "--attack", 5)
    assert output["tightened"]
    assert output["attacked_samples"] == 5
    assert output["average_certified_radius"] > plain["average_certified_radius"]
    assert set(output["attacked_accuracy"]) == {"0.05"}
    shown = run(*arguments, "--attack", 5).output
    assert "5 attacked inputs: a random sample stratified by label" in shown
    assert "under attack" in shown


def test_evaluate_writes_a_report(folder):
    arguments = ("evaluate", folder / "net.onnx", "--data", folder / "data.npz", "--report", folder / "out")
    output = run_json(*arguments)
    written = json.loads((folder / "out" / "evaluation.json").read_text())
    assert written.items() >= output.items()
    assert "net.onnx" in (folder / "out" / "evaluation.html").read_text()


def test_data_in_files_of_several_kinds_give_the_same(folder):
    x, y = np.load(folder / "x.npy"), np.load(folder / "data.npz")["labels"]
    np.save(folder / "y.npy", y)
    model = folder / "net.onnx"
    expected = run_json("evaluate", model, "--data", folder / "data.npz")
    mapped = ("--data", folder / "x.npy", "--labels", folder / "y.npy")
    assert run_json("evaluate", model, *mapped) == expected
    assert run_json("audit", model, *mapped) == run_json("audit", model, "--data", folder / "data.npz")
    assert "requires --labels" in run("evaluate", model, "--data", folder / "x.npy", status=2).output
    np.save(folder / "y.npy", y[:-1])
    assert "one label per row" in run("evaluate", model, *mapped, status=2).output.replace("\n", " ")
    assert run_json("audit", model, "--data", folder / "x.npy")["points"]["data"] == len(x)


def test_attacks_of_foolbox(folder, monkeypatch):
    pytest.importorskip("foolbox", reason="foolbox is not installed: pip install 'lipcert[attacks]'")
    arguments = ("audit", folder / "net.onnx", "--samples", 20, "--attack", 5, "--attack-method", "deepfool")
    assert run_json(*arguments)["attack"]["methods"] == ["ascent", "deepfool"]
    assert "not available in l1" in run(*arguments, "--norm", "1", status=2).output


def test_audit_writes_a_report(folder):
    run("audit", folder / "net.onnx", "--samples", 50, "--report", folder / "audited")
    output = json.loads((folder / "audited" / "audit.json").read_text())
    assert output["verdict"] == "consistent"
    assert output["data"] == "random points"
    assert "net.onnx" in (folder / "audited" / "audit.html").read_text()
    run("audit", folder / "liar.onnx", "--samples", 50, "--report", folder / "lied", status=1)
    assert "refuted" in (folder / "lied" / "audit.md").read_text()


def test_audit(folder):
    output = run_json("audit", folder / "net.onnx", "--samples", 50)
    assert output["verdict"] == "consistent"
    assert output["observed"] <= output["bound"]
    assert 0 < output["tightness"] <= 1
    with_data = run_json("audit", folder / "net.onnx", "--samples", 0, "--data", folder / "data.npz")
    assert with_data["points"]["data"] == 30
    assert "refuted" in run("audit", folder / "liar.onnx", "--samples", 50, status=1).output


def test_train_and_its_errors(tmp_path):
    pytest.importorskip("torch")
    output = run_json(
        "train", "two-moons", "--out", tmp_path, "--epochs", 1, "--norm", "inf", "--lipschitz", 2
    )
    assert output["model"]["bound_global"] <= 2
    assert (tmp_path / "two-moons.onnx").exists()
    shown = load_labelled(tmp_path / "two-moons.samples.npz")
    assert shown.inputs.shape == (300, 2)
    held_out = {tuple(row) for row in load_parts("two-moons")[1].inputs.tolist()}
    assert {tuple(row) for row in shown.inputs.tolist()} <= held_out
    assert "two-moons" in run("train", "two-moon", "--out", tmp_path, status=2).output
    gone = run("train", "mnist", "--out", tmp_path, "--data-dir", tmp_path / "gone", status=2)
    assert "nothing is downloaded" in " ".join(gone.output.split())


def write_rows(path, rows=60):
    rng = np.random.default_rng(0)
    labels = np.arange(rows) % 3
    x = rng.normal(size=(rows, 2)) * [0.1, 300.0] + labels[:, None] * [0.5, 1500.0]
    lines = [f"{a!r},{b!r},{label}" for (a, b), label in zip(x.tolist(), labels, strict=True)]
    path.write_text("\n".join(["width,height,kind", *lines]) + "\n")


def test_train_on_data_of_your_own(tmp_path):
    pytest.importorskip("torch")
    write_rows(tmp_path / "mine.csv")
    arguments = ["train", "digits", "--data", tmp_path / "mine.csv", "--out", tmp_path, "--epochs", 40, "--set", "network.widths=[16]", "--set", "training.batch_size=15",
                 "--set", "loss.name=multiclass-hinge"]  # fmt: skip
    result = run(*arguments)
    output = " ".join(result.stderr.split())
    for part in (
        "data mine.csv: 60 inputs of 2 numbers",
        "rows 45 for training, 15 (25%) held out",
        "classes 3; training rows: 0 (15), 1 (15), 2 (15)",
        "scaling inside the network, each column is centred and divided by about its standard deviation",
        "units radii and epsilons are in the units of the inputs: as in the file",
        "columns width, height",
    ):
        assert part in output
    record = json.loads((tmp_path / "mine.json").read_text())
    assert (record["recipe"]["data"], record["recipe"]["scaling"]) == ("mine.csv", "columns")
    assert record["recipe"]["training"]["batch_size"] == 15
    assert record["data"]["columns"] == ["width", "height"]
    assert "data" in record["data"]["understood"]
    # the file takes the rows as they are in the table
    evaluated = run_json("evaluate", tmp_path / "mine.onnx", "--data", tmp_path / "mine.csv")
    assert evaluated["clean_accuracy"] > 0.9
    assert evaluated["average_certified_radius"] > 0
    assert run_json("inspect", tmp_path / "mine.onnx")["status"] == "proved"
    assert not (tmp_path / "mine.samples.npz").exists(), "rows of one's own are shown to nobody unasked"
    assert record["recipe"]["name"] == "mine", "the data is not called digits, nor is such a model replaced"
    assert not list(tmp_path.glob("digits*"))
    unscaled = run_json(*arguments, "--set", "scaling=none", "--samples", 10, "--force")
    assert load_labelled(tmp_path / "mine.samples.npz").inputs.shape == (10, 2)
    assert unscaled["recipe"]["scaling"] == "none"


@pytest.mark.parametrize("end", ["onnx", "json", "png", "html", "samples.npz"])
def test_training_replaces_files_only_with_force(tmp_path, end):
    pytest.importorskip("torch")
    path = tmp_path / f"two-moons.{end}"
    path.write_bytes(b"somebody's")
    refused = run("train", "two-moons", "--out", tmp_path, "--epochs", 1, status=2)
    output = " ".join(refused.output.split())
    assert f"two-moons.{end} exists; replace it with --force, or choose another --name" in output
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"somebody's"


def test_training_replaces_all_that_belongs_to_a_model(tmp_path):
    pytest.importorskip("torch")
    for end in ("onnx", "samples.npz"):
        (tmp_path / f"two-moons.{end}").write_bytes(b"of another model")
    run_json("train", "two-moons", "--out", tmp_path, "--epochs", 1, "--samples", 0, "--force")
    assert run_json("inspect", tmp_path / "two-moons.onnx")["status"] == "proved"
    assert not (tmp_path / "two-moons.samples.npz").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "training.epoch=3"], "did you mean 'training.epochs'"),
        (["--set", "training.epochs"], "KEY=VALUE is accepted"),
        (
            ["--set", "training.batch_size=100000"],
            "is larger than the number of training rows; at most 3000 is accepted",
        ),
        (["--data-dir", ".", "--data", "x.csv"], "give --data-dir or --data, not both"),
        (["--data", "gone.csv"], "gone.csv not found"),
        (["--name", "a/b"], "'a/b' cannot name files"),
        (["--name", ""], "cannot name files"),
        (["--resume"], "to resume from; train without --resume"),
        (["--lipschitz", "nan"], "lipschitz = nan"),
        (["--set", "loss.name=emma", "--set", "training.threads=0"], "training.threads = 0"),
    ],
)
def test_a_usage_error_of_train_is_one_line_with_the_remedy(tmp_path, monkeypatch, more, message):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    result = run("train", "two-moons", "--out", tmp_path / "out", *more, status=2)
    errors = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert result.stderr.endswith(errors[0] + "\n")


def test_a_named_set_in_a_folder_can_be_evaluated(folder):
    run("evaluate", folder / "net.onnx", "--data", "adult", status=2)
    output = run("evaluate", folder / "net.onnx", "--data", "adult", "--data-dir", folder, status=2).output
    assert "neither adult.data nor adult.data.gz" in " ".join(output.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["certify", "net.onnx", "--inputs", "gone.npy"],
        ["certify", "net.onnx", "--inputs", "data.npz"],
        ["certify", "net.onnx"],
        ["certify", "net.onnx", "--inputs", "x.npy", "--norm", "3"],
        ["evaluate", "net.onnx", "--data", "gone.npz"],
        ["evaluate", "net.onnx", "--data", "data.npz", "--eps", "-1"],
        ["evaluate", "net.onnx", "--data", "digits"],
        ["audit", "net.onnx", "--samples", "0"],
        ["audit", "net.onnx", "--samples", "many"],
        ["nonsense"],
    ],
)
def test_bad_use_exits_with_2_and_one_clear_line(folder, monkeypatch, arguments):
    monkeypatch.chdir(folder)
    result = run(*arguments, status=2)
    assert "Traceback" not in result.output
    assert "rror" in result.output


@pytest.mark.parametrize("value", [0.29999999, 1.5, 1e-9 / 3, -0.1234567, 0.1, 123456.7, 0.0])
def test_displayed_figures_are_rounded_in_the_safe_direction(value):
    assert float(rounded_down(value)) <= value <= float(rounded_up(value))
    assert float(rounded(value)) == pytest.approx(value, rel=1e-5)


def test_displayed_figures():
    assert rounded_down(0.29999999) == "0.299999"
    assert rounded_up(0.29999999) == rounded(0.29999999) == "0.300000"
    assert [rounded_down(value) for value in (1.5, 0.0)] == ["1.5", "0"]
    assert [certified_radius(radius) for radius in (1.5, 0.0)] == ["1.5", "0 (abstains)"]
    assert [certified_percent(k / 100) for k in (29, 100)] == ["29.00%", "100.00%"]
    assert certified_percent(2 / 3) == "66.66%"
