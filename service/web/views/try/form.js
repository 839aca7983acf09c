// A model of tabular data: one field per column, with a prediction at every change.

import { empty, fill, h, newId, select, table } from "../../dom.js";
import { near, up } from "../../numbers.js";
import { panel } from "./panel.js";
import { trial } from "./trial.js";

const MAX_FIELDS = 200;
const MAX_CHANGES = 8;

/** Show the form; see try.js. */
export function show(container, { model, samples, norm }) {
  const names = model.input_claim.columns.length ? model.input_claim.columns
    : Array.from({ length: model.input_size }, (_, index) => `Feature ${index + 1}`);
  const results = panel();
  const changes = h("section", { class: "card", "aria-label": "Nearest adversarial example", hidden: true });
  const session = trial(model, norm, {
    moved: () => changes.classList.add("stale"),
    predicted: (prediction, row, usedNorm) => results.predicted(prediction, usedNorm),
    searching: () => results.searching(),
    found(finding, row, usedNorm) {
      results.found(finding, usedNorm);
      changes.classList.remove("stale");
      changes.hidden = !finding.found;
      fill(changes, finding.found ? largestChanges(names, row, finding) : null);
    },
    failed(error, operation) {
      results.failed(error, operation);
      changes.hidden = true;
    },
  });

  const boxes = names.slice(0, MAX_FIELDS).map((name, index) => h("input", {
    type: "number", step: "any", id: newId("column"), required: true,
    oninput: (event) => {
      const value = event.target.valueAsNumber;
      event.target.setAttribute("aria-invalid", String(!Number.isFinite(value)));
      if (Number.isFinite(value)) session.move(session.row.with(index, value));
    },
  }));

  function load(row) {
    boxes.forEach((box, index) => { box.value = Number(row[index].toPrecision(7)); box.removeAttribute("aria-invalid"); });
    session.move(row);
  }

  const ranges = samples && names.map((_, index) => {
    const values = samples.inputs.map((row) => row[index]);
    return `${near(Math.min(...values), 4)} to ${near(Math.max(...values), 4)}`;
  });
  const chosen = samples && select(samples.inputs.map((_, index) => [index, `Sample ${index + 1}: ${model.classes[samples.labels[index]]}`]), 0,
    { id: newId("sample"), onchange: () => load(samples.inputs[chosen.value]) });
  const fields = h("div", { class: "numbers" }, boxes.map((box, index) => {
    const hint = ranges && h("span", { class: "hint", id: newId("range") }, ranges[index]);
    if (hint) box.setAttribute("aria-describedby", hint.id);
    return h("div", { class: "field" }, h("label", { for: box.id }, names[index]), box, hint);
  }));

  fill(container, h("div", { class: "trial-view" },
    h("section", { class: "card", "aria-label": "Input" },
      samples ? h("div", { class: "field" }, h("label", { for: chosen.id }, "Start from"), chosen)
        : h("p", { class: "hint" }, "This model has no stored samples; ", h("code", {}, "lipmodel train"), " writes them to NAME.samples.npz."),
      model.input_claim.units && h("p", { class: "hint" }, `Units: ${model.input_claim.units}.`),
      fields,
      names.length > MAX_FIELDS && h("p", { class: "hint" }, `The first ${MAX_FIELDS} of ${names.length} features; the others keep the values of the sample.`)),
    h("div", {}, results.element, changes)));

  load(samples ? samples.inputs[0] : Array(model.input_size).fill(0));
  return { setNorm: (to) => session.setNorm(to), close: () => session.close() };
}

/** List the changes of the adversarial example, largest first. */
function largestChanges(names, row, { adversarial, adversarial_label: label, distance }) {
  const order = row.map((_, index) => index).filter((index) => adversarial[index] !== row[index])
    .sort((a, b) => Math.abs(adversarial[b] - row[b]) - Math.abs(adversarial[a] - row[a]));
  if (!order.length) return empty("No feature differs");
  const more = order.length - MAX_CHANGES;
  return [
    table(`Nearest adversarial example: ${label}, at distance ${up(distance, 4)}`,
      ["Feature", { name: "Input", numeric: true }, { name: "Adversarial", numeric: true }],
      order.slice(0, MAX_CHANGES).map((index) => [
        names[index], near(row[index], 4), near(adversarial[index], 4),
      ])),
    more > 0 ? h("p", { class: "hint" }, `… and ${more} smaller changes.`) : null,
  ];
}
