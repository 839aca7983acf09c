// Forms that start an audit or an evaluation.

import { get, modelPath, request } from "../api.js";
import { Unusable, choice, dropZone, field, fill, h, loading, problem, section, select } from "../dom.js";
import * as numbers from "../numbers.js";
import { jobAddress } from "./job.js";

const STEPS = 40;
const MOST_ATTACKED = 300;
const NOW = { Prefer: "wait=0" };

export function startForms(models, query) {
  const asked = query.get("model");
  const named = models.some(({ name }) => name === asked) ? asked : models[0].name;
  const body = h("div", {});
  let kind = query.get("kind") === "evaluation" ? "evaluation" : "audit";
  const draw = () => fill(body, (kind === "audit" ? auditForm : evaluationForm)(models, named));
  draw();
  return section("Start one", h("div", { class: "card" },
    choice("What", [["audit", "Audit"], ["evaluation", "Evaluation"]], kind, (value) => { kind = value; draw(); }), body));
}

/** What both forms begin with: which model, which of its versions, which norm. */
function common(models, named) {
  const model = select(models.map(({ name }) => [name, name]), named, { onchange: () => { ready = choose(); } });
  const version = select([], null);
  const norm = select([["", "the model's own"], ...["1", "2", "inf"].map((name) => [name, numbers.norm(name)])], "");
  const told = []; // what wants to know of the model chosen
  const choose = async () => {
    versions();
    const { samples, record } = await get(modelPath(model.value)).catch(() => ({ samples: 0, record: {} }));
    told.forEach((tell) => tell(samples, record));
  };
  const versionField = field("Version", version);
  const versions = () => {
    const served = models.find(({ name }) => name === model.value).versions.filter(({ status }) => status === "served");
    fill(version, [["", "the one that answers"], ...served.map((one) => [one.version, one.version])].map(([value, text]) => h("option", { value }, text)));
    versionField.hidden = served.length < 2;
  };
  let ready = choose();
  return {
    fields: [field("Model", model), versionField, field("Norm", norm)],
    path: () => modelPath(model.value, version.value || null),
    norm: () => norm.value || null,
    ready: () => ready,
    samples: () => get(`${modelPath(model.value, version.value || null)}/samples`),
    whenChosen: (tell) => told.push(tell),
  };
}

function auditForm(models, named) {
  const { fields, path, norm, samples: beside, whenChosen, ready } = common(models, named);
  const samples = h("input", { type: "number", min: 0, value: 1000, required: true });
  const seed = h("input", { type: "number", min: 0, value: 0, required: true });
  const rows = h("textarea", { class: "code", rows: 3, spellcheck: "false", placeholder: "0.5, 0.25" });
  const report = h("input", { type: "checkbox" });
  const own = h("input", { type: "checkbox", checked: true });
  const ownLabel = h("label", { class: "check" }, own, h("span", {}));
  whenChosen((number) => {
    ownLabel.hidden = !number;
    fill(ownLabel.lastChild, `Also look at the ${numbers.count(number)} samples that lie beside the model`);
  });
  return form("Start the audit", ready, async () => {
    const inputs = [...(own.checked && !ownLabel.hidden ? (await beside()).inputs : []), ...(rows.value.trim() ? rowsOf(rows.value) : [])];
    return request("POST", `${path()}/audits`, {
      json: { norm: norm(), samples: Number(samples.value), seed: Number(seed.value), report: report.checked, ...(inputs.length ? { inputs } : {}) },
      headers: NOW,
    });
  },
  h("div", { class: "fields" }, fields,
    field("Random points", samples, "In the box of inputs that the file names."),
    field("Seed", seed, "The same seed gives the same report.")),
  h("details", {}, h("summary", {}, "Inputs of your own"), field("One input a line", rows, "Numbers with commas or spaces between them; they are looked at beside the random points.")),
  ownLabel, reportBox(report));
}

function evaluationForm(models, named) {
  const { fields, path, norm, samples, whenChosen, ready } = common(models, named);
  const largest = h("input", { type: "number", min: 0, step: "any", required: true });
  const attack = h("input", { type: "number", min: 0, value: 200, required: true });
  const tighten = h("input", { type: "checkbox" });
  const report = h("input", { type: "checkbox" });
  const data = dataChoice(samples);
  whenChosen((number, record) => {
    if (number) attack.value = Math.min(MOST_ATTACKED, number);
    largest.value = suggestion(record);
    data.tell(number);
  });
  return form("Start the evaluation", ready, async () => {
    const top = Number(largest.value);
    const asked = {
      norm: norm(), attack: Number(attack.value), tighten: tighten.checked, report: report.checked,
      epsilons: top ? Array.from({ length: STEPS }, (_, step) => Number(((top * (step + 1)) / STEPS).toPrecision(6))) : [],
    };
    const { json, files } = await data.read();
    if (!files) return request("POST", `${path()}/evaluations`, { json: { ...asked, ...json }, headers: NOW });
    const body = new FormData();
    body.append("request", JSON.stringify(asked));
    for (const [name, file] of Object.entries(files)) body.append(name, file);
    return request("POST", `${path()}/evaluations`, { body, headers: NOW });
  },
  h("div", { class: "fields" }, fields,
    field("Largest size of change", largest, `Accuracy is given at ${STEPS} even steps up to it.`),
    field("Inputs to attack", attack, "A random sample in which each class has its share; for the curve from above.")),
  data.element,
  h("div", { class: "row" }, h("label", { class: "check" }, tighten, "Prove larger radii, slowly")), reportBox(report));
}

/** Beyond the radii that the file tells of, so that the attacked curve comes down, too. */
function suggestion({ held_out: held }) {
  const far = held?.certified_radius_quantiles?.["0.95"];
  return far ? Number((1.6 * far).toPrecision(2)) : 0.5;
}

/** Where the labelled data come from: beside the model, a file, lines of text, or a place that the service knows. */
function dataChoice(samples) {
  let kind = "file", files = null;
  const rows = h("textarea", { class: "code", rows: 5, spellcheck: "false", placeholder: "0.0, 1.0, 0\n1.0, -0.5, 1" });
  const path = h("input", { placeholder: "mnist", spellcheck: "false" });
  const chosen = h("p", { class: "hint", "aria-live": "polite" });
  const take = (name) => (file) => {
    files = name === "data" ? { data: file } : { ...(files?.data ? {} : files), [name]: file };
    fill(chosen, Object.values(files).map((one) => `${one.name} (${numbers.count(Math.ceil(one.size / 1024))} KiB)`).join(", "));
  };
  const beside = h("p", { class: "hint" });
  const panels = {
    samples: beside,
    file: h("div", { class: "fields" },
      dropZone("Drop a .npz or .parquet file", "Arrays inputs and labels; of a table the last column is the label.", take("data"), { accept: ".npz,.parquet" }),
      dropZone("or IDX images", "As MNIST has them; .gz is fine.", take("images")), dropZone("and IDX labels", "Of those images.", take("labels"))),
    rows: field("One input a line, the number of its class at the end", rows, "Classes are counted from 0."),
    path: field("File or folder", path, "Under the folder that the service was given by --data."),
  };
  const element = h("div", { class: "card bare" });
  const tell = (number) => {
    fill(beside, `The ${numbers.count(number)} samples that lie beside the model. They are few: mind the intervals.`);
    const own = number ? [["samples", "Samples of the model"]] : [];
    if (number || kind === "samples") kind = number ? "samples" : "file";
    const body = h("div", {});
    const draw = () => fill(body, panels[kind], kind === "file" ? chosen : null);
    draw();
    fill(element, choice("Labelled data", [...own, ["file", "A file"], ["rows", "A few rows"], ["path", "At the service"]], kind, (value) => { kind = value; draw(); }), body);
  };
  const read = async () => {
    if (kind === "samples") {
      const { inputs, labels } = await samples();
      return { json: { inputs, labels } };
    }
    if (kind === "path") return { json: { path: path.value } };
    if (kind === "rows") {
      const all = rowsOf(rows.value);
      return { json: { inputs: all.map((row) => row.slice(0, -1)), labels: all.map((row) => row.at(-1)) } };
    }
    if (!files) throw new Unusable("No file is chosen yet");
    return { files };
  };
  fill(element, loading());
  return { element, read, tell };
}

const reportBox = (box) => h("label", { class: "check" }, box, "Also keep a report to download (HTML and Markdown)");

function form(label, ready, send, ...children) {
  const said = h("div", {});
  const button = h("button", { class: "primary" }, label);
  return h("form", {
    class: "card bare",
    onsubmit: async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        await ready(); // what is known of the model decides what is sent
        const { headers, data } = await send();
        const place = headers.get("Location") ?? headers.get("Content-Location");
        location.hash = jobAddress({ kind: place.includes("/audits/") ? "audit" : "evaluation", id: data.id ?? place.split("/").at(-1) });
      } catch (error) {
        fill(said, problem(error));
        button.disabled = false;
      }
    },
  }, children, h("p", { class: "row" }, button), said);
}

/** Lines of numbers. Throws an Error that names the line. */
function rowsOf(text) {
  return text.trim().split("\n").map((line, index) => {
    const row = line.trim().split(/[\s,;]+/).filter(Boolean).map(Number);
    if (!row.length || row.some((value) => !Number.isFinite(value))) throw new Unusable(`Line ${index + 1} holds something that is not a number`);
    return row;
  });
}
