// A model of columns: a field each, answered as they are filled in.

import { empty, fill, h, newId, select, table } from "../../dom.js";
import { near, up } from "../../numbers.js";
import { panel } from "./panel.js";
import { trial } from "./trial.js";

const MOST_FIELDS = 200;
const MOST_CHANGES = 8;

/** Shows a form on trial; see try.js. */
export function show(place, { model, samples, norm }) {
  const names = model.input_claim.columns.length ? model.input_claim.columns
    : Array.from({ length: model.input_size }, (_, index) => `Number ${index + 1}`);
  const told = panel();
  const changes = h("section", { class: "card", "aria-label": "Closest attack", hidden: true });
  const test = trial(model, norm, {
    moved: () => changes.classList.add("stale"),
    answered: (prediction, row, measured) => told.answered(prediction, measured),
    searching: () => told.searching(),
    found(finding, row, measured) {
      told.found(finding, measured);
      changes.classList.remove("stale");
      changes.hidden = !finding.found;
      fill(changes, finding.found ? changed(names, row, finding) : null);
    },
    failed(error, what) {
      told.failed(error, what);
      changes.hidden = true;
    },
  });

  const boxes = names.slice(0, MOST_FIELDS).map((name, index) => h("input", {
    type: "number", step: "any", id: newId("column"), required: true,
    oninput: (event) => {
      const value = event.target.valueAsNumber;
      event.target.setAttribute("aria-invalid", String(!Number.isFinite(value)));
      if (Number.isFinite(value)) test.move(test.row.with(index, value));
    },
  }));

  function take(row) {
    boxes.forEach((box, index) => { box.value = Number(row[index].toPrecision(7)); box.removeAttribute("aria-invalid"); });
    test.move(row);
  }

  const ranges = samples && names.map((_, index) => {
    const values = samples.inputs.map((row) => row[index]);
    return `${near(Math.min(...values), 4)} to ${near(Math.max(...values), 4)}`;
  });
  const chosen = samples && select(samples.inputs.map((_, index) => [index, `Sample ${index + 1}: ${model.classes[samples.labels[index]]}`]), 0,
    { id: newId("sample"), onchange: () => take(samples.inputs[chosen.value]) });
  const fields = h("div", { class: "numbers" }, boxes.map((box, index) => {
    const hint = ranges && h("span", { class: "hint", id: newId("range") }, ranges[index]);
    if (hint) box.setAttribute("aria-describedby", hint.id);
    return h("div", { class: "field" }, h("label", { for: box.id }, names[index]), box, hint);
  }));

  fill(place, h("div", { class: "trial-view" },
    h("section", { class: "card", "aria-label": "Input" },
      samples ? h("div", { class: "field" }, h("label", { for: chosen.id }, "Begin with"), chosen)
        : h("p", { class: "hint" }, "No samples lie beside this model; ", h("code", {}, "lipmodel train"), " writes them as NAME.samples.npz."),
      model.input_claim.units && h("p", { class: "hint" }, `Units: ${model.input_claim.units}.`),
      fields,
      names.length > MOST_FIELDS && h("p", { class: "hint" }, `The first ${MOST_FIELDS} of ${names.length} numbers; the others stay as the sample has them.`)),
    h("div", {}, told.element, changes)));

  take(samples ? samples.inputs[0] : Array(model.input_size).fill(0));
  return { measure: (by) => test.measure(by), close: () => test.close() };
}

/** What the attack changed, the largest change first. */
function changed(names, row, { adversarial, adversarial_label: label, distance }) {
  const order = row.map((_, index) => index).filter((index) => adversarial[index] !== row[index])
    .sort((a, b) => Math.abs(adversarial[b] - row[b]) - Math.abs(adversarial[a] - row[a]));
  if (!order.length) return empty("Nothing was changed");
  const more = order.length - MOST_CHANGES;
  return [
    table(`The closest input found that is answered ${label}, ${up(distance, 4)} away`,
      ["column", { name: "yours", numeric: true }, { name: "there", numeric: true }],
      order.slice(0, MOST_CHANGES).map((index) => [
        names[index], near(row[index], 4), near(adversarial[index], 4),
      ])),
    more > 0 ? h("p", { class: "hint" }, `… and ${more} smaller changes.`) : null,
  ];
}
