// Forms that start an audit or an evaluation.

import { get, modelPath, request } from "../api.js";
import { InputError, choice, dropZone, field, fill, h, loading, problem, section, select } from "../dom.js";
import * as numbers from "../numbers.js";
import { jobAddress } from "./job.js";

const STEPS = 40;
const MAX_ATTACKED = 300;
const NOW = { Prefer: "wait=0" };

export function startForms(models, query) {
  const requested = query.get("model");
  const named = models.some(({ name }) => name === requested) ? requested : models[0].name;
  const body = h("div", {});
  let kind = query.get("kind") === "evaluation" ? "evaluation" : "audit";
  const draw = () => fill(body, (kind === "audit" ? auditForm : evaluationForm)(models, named));
  draw();
  return section("New audit or evaluation", h("div", { class: "card" },
    choice("Kind", [["audit", "Audit"], ["evaluation", "Evaluation"]], kind, (value) => { kind = value; draw(); }), body));
}

/** Build the fields shared by both forms: model, version, norm. */
function common(models, named) {
  const model = select(models.map(({ name }) => [name, name]), named, { onchange: () => { ready = choose(); } });
  const version = select([], null);
  const norm = select([["", "the model's default"], ...["1", "2", "inf"].map((name) => [name, numbers.norm(name)])], "");
  const listeners = []; // called when a model has been chosen
  const choose = async () => {
    versions();
    const { samples, record } = await get(modelPath(model.value)).catch(() => ({ samples: 0, record: {} }));
    listeners.forEach((listener) => listener(samples, record));
  };
  const versionField = field("Version", version);
  const versions = () => {
    const served = models.find(({ name }) => name === model.value).versions.filter(({ status }) => status === "served");
    fill(version, [["", "the default version"], ...served.map((item) => [item.version, item.version])].map(([value, text]) => h("option", { value }, text)));
    versionField.hidden = served.length < 2;
  };
  let ready = choose();
  return {
    fields: [field("Model", model), versionField, field("Norm", norm)],
    path: () => modelPath(model.value, version.value || null),
    norm: () => norm.value || null,
    ready: () => ready,
    samples: () => get(`${modelPath(model.value, version.value || null)}/samples`),
    onModelChosen: (listener) => listeners.push(listener),
  };
}

function auditForm(models, named) {
  const { fields, path, norm, samples: storedSamples, onModelChosen, ready } = common(models, named);
  const samples = h("input", { type: "number", min: 0, value: 1000, required: true });
  const seed = h("input", { type: "number", min: 0, value: 0, required: true });
  const rows = h("textarea", { class: "code", rows: 3, spellcheck: "false", placeholder: "0.5, 0.25" });
  const report = h("input", { type: "checkbox" });
  const include = h("input", { type: "checkbox", checked: true });
  const includeLabel = h("label", { class: "check" }, include, h("span", {}));
  onModelChosen((number) => {
    includeLabel.hidden = !number;
    fill(includeLabel.lastChild, `Include the ${numbers.count(number)} stored samples of the model`);
  });
  return form("Start audit", ready, async () => {
    const inputs = [...(include.checked && !includeLabel.hidden ? (await storedSamples()).inputs : []), ...(rows.value.trim() ? rowsOf(rows.value) : [])];
    return request("POST", `${path()}/audits`, {
      json: { norm: norm(), samples: Number(samples.value), seed: Number(seed.value), report: report.checked, ...(inputs.length ? { inputs } : {}) },
      headers: NOW,
    });
  },
  h("div", { class: "fields" }, fields,
    field("Random points", samples, "Drawn from the input range that the file states."),
    field("Seed", seed, "Equal seeds give equal results.")),
  h("details", {}, h("summary", {}, "Additional inputs"), field("One input per line", rows, "Numbers separated by commas or spaces, audited in addition to the random points.")),
  includeLabel, reportBox(report));
}

function evaluationForm(models, named) {
  const { fields, path, norm, samples, onModelChosen, ready } = common(models, named);
  const largest = suggestedNumber({ step: "any" });
  const attack = suggestedNumber({ value: 200 });
  const tighten = h("input", { type: "checkbox" });
  const report = h("input", { type: "checkbox" });
  const data = dataChoice(samples);
  onModelChosen((number, record) => {
    if (number) attack.suggest(Math.min(MAX_ATTACKED, number));
    largest.suggest(largestSize(record));
    data.update(number);
  });
  return form("Start evaluation", ready, async () => {
    const top = Number(largest.input.value);
    const parameters = {
      norm: norm(), attack: Number(attack.input.value), tighten: tighten.checked, report: report.checked,
      epsilons: top ? Array.from({ length: STEPS }, (_, step) => Number(((top * (step + 1)) / STEPS).toPrecision(6))) : [],
    };
    const { json, files } = await data.read();
    if (!files) return request("POST", `${path()}/evaluations`, { json: { ...parameters, ...json }, headers: NOW });
    const body = new FormData();
    body.append("request", JSON.stringify(parameters));
    for (const [name, file] of Object.entries(files)) body.append(name, file);
    return request("POST", `${path()}/evaluations`, { body, headers: NOW });
  },
  h("div", { class: "fields" }, fields,
    field("Largest perturbation size", largest.input, `Accuracy is computed at ${STEPS} equal steps up to this size.`),
    field("Inputs to attack", attack.input, "Stratified random sample for accuracy under attack.")),
  data.element,
  h("div", { class: "row" }, h("label", { class: "check" }, tighten, "Tighten: prove larger radii (slow)")), reportBox(report));
}

/** Build a number field with `suggest(value)`, which has no effect once the user has edited the field. */
function suggestedNumber(attributes) {
  let edited = false;
  const input = h("input", { type: "number", min: 0, required: true, ...attributes, oninput: () => { edited = true; } });
  return { input, suggest: (value) => { if (!edited) input.value = value; } };
}

/** Return a largest perturbation size to suggest: beyond the radii that the file claims, so that the curve under attack falls as well. */
function largestSize({ held_out: held }) {
  const far = held?.certified_radius_quantiles?.["0.95"];
  return far ? Number((1.6 * far).toPrecision(2)) : 0.5;
}

/** Build the choice of labelled data: stored samples, uploaded files, typed rows, or a path on the server. */
function dataChoice(samples) {
  let kind = "file", files = null;
  const rows = h("textarea", { class: "code", rows: 5, spellcheck: "false", placeholder: "0.0, 1.0, 0\n1.0, -0.5, 1" });
  const path = h("input", { placeholder: "mnist", spellcheck: "false" });
  const chosen = h("p", { class: "hint", "aria-live": "polite" });
  const add = (name) => (file) => {
    files = name === "data" ? { data: file } : { ...(files?.data ? {} : files), [name]: file };
    fill(chosen, Object.values(files).map(({ name: title, size }) => `${title} (${numbers.count(Math.ceil(size / 1024))} KiB)`).join(", "));
  };
  const stored = h("p", { class: "hint" });
  const panels = {
    samples: stored,
    file: h("div", { class: "fields" },
      dropZone("Drop a .npz or .parquet file here", "NPZ: arrays inputs and labels. Parquet: the last column is the label.", add("data"), { accept: ".npz,.parquet" }),
      dropZone("or IDX images", "The format of MNIST, optionally gzipped.", add("images")), dropZone("and IDX labels", "The labels of these images.", add("labels"))),
    rows: field("One input per line, followed by its class index", rows, "Class indices start at 0."),
    path: field("File or folder", path, "Relative to the --data folder of the service."),
  };
  const element = h("div", { class: "card bare" });
  const update = (number) => {
    fill(stored, `The ${numbers.count(number)} stored samples of the model. Small sample: check the confidence intervals.`);
    const choices = number ? [["samples", "Stored samples"]] : [];
    if (number || kind === "samples") kind = number ? "samples" : "file";
    const body = h("div", {});
    const draw = () => fill(body, panels[kind], kind === "file" ? chosen : null);
    draw();
    fill(element, choice("Labelled data", [...choices, ["file", "File"], ["rows", "Rows"], ["path", "Path on the server"]], kind, (value) => { kind = value; draw(); }), body);
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
    if (!files) throw new InputError("No file chosen");
    return { files };
  };
  fill(element, loading());
  return { element, read, update };
}

const reportBox = (box) => h("label", { class: "check" }, box, "Also create a report to download (HTML and Markdown)");

function form(label, ready, send, ...children) {
  const feedback = h("div", {});
  const button = h("button", { class: "primary" }, label);
  return h("form", {
    class: "card bare",
    onsubmit: async (event) => {
      event.preventDefault();
      button.disabled = true;
      try {
        await ready(); // the request depends on the model's metadata
        const { headers, data } = await send();
        const address = headers.get("Location") ?? headers.get("Content-Location");
        location.hash = jobAddress({ kind: address.includes("/audits/") ? "audit" : "evaluation", id: data.id ?? address.split("/").at(-1) });
      } catch (error) {
        fill(feedback, problem(error));
        button.disabled = false;
      }
    },
  }, children, h("p", { class: "row" }, button), feedback);
}

/** Parse lines of numbers; an InputError names the invalid line. */
function rowsOf(text) {
  return text.trim().split("\n").map((line, index) => {
    const row = line.trim().split(/[\s,;]+/).filter(Boolean).map(Number);
    if (!row.length || row.some((value) => !Number.isFinite(value))) throw new InputError(`Line ${index + 1} contains a value that is not a finite number`);
    return row;
  });
}
