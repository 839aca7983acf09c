// A model of images: draw one or take one, and see it beside the closest image that is answered otherwise.

import { announce, choice, fill, h } from "../../dom.js";
import { down, near, up } from "../../numbers.js";
import { palette } from "../../plots.js";
import { noise } from "./noise.js";
import { panel } from "./panel.js";
import { drawable, layout, paint, paintChange, rgb } from "./pixels.js";
import { trial } from "./trial.js";

const SHOWN = 20; // samples at a time

/** Shows an image on trial; see try.js. */
export function show(place, { model, samples, norm }) {
  const image = layout(model, samples);
  const told = panel();
  const blank = () => Array(image.size).fill(image.low);
  const canvas = (label) => h("canvas", { class: "pixels", role: "img", "aria-label": label });
  const mine = h("canvas", { class: "pixels drawn", tabindex: 0, role: "application", "aria-roledescription": "drawing", "aria-describedby": "drawing-keys" });
  const [other, change, noisy] = [canvas("No other image yet"), canvas("No change yet"), canvas("No noise yet")];
  const mineSaid = h("figcaption", {}, "Your image");
  const [otherSaid, changeSaid, noisySaid] = [h("figcaption", {}), h("figcaption", {}), h("figcaption", {}, "With the change")];
  const strip = h("div", { class: "samples" });
  let tool = "draw";
  let first = 0;
  let known = null; // the answer to the input, and
  let sought = null; // what the search found of it: whichever comes first

  const shaken = noise(model, (values, answer) => {
    paint(noisy, image, values);
    if (answer) {
      fill(noisySaid, `With the change, answered ${answer.label ?? "nothing"}`);
      noisy.setAttribute("aria-label", `Your image with the change, answered ${answer.label ?? "nothing"}`);
    }
  });
  for (const one of [other, change, noisy]) paint(one, image, blank());

  const test = trial(model, norm, {
    moved(row) {
      known = sought = null;
      shaken.about(null);
      paint(mine, image, row);
      stale(true);
    },
    answered(prediction, row, measured) {
      told.answered(prediction, measured);
      fill(mineSaid, `Your image, answered ${prediction.label ?? "nothing"}`);
      mine.setAttribute("aria-label", `Your image, answered ${prediction.label ?? "nothing"}, certified radius ${down(prediction.certified_radius, 3)}`);
      known = { row, prediction, norm: measured };
      shake();
    },
    searching: () => told.searching(),
    found(finding, row, measured) {
      told.found(finding, measured);
      stale(false);
      if (finding.found) compare(row, finding);
      else forget();
      sought = { row, norm: measured, other: finding.found ? finding : null };
      shake();
    },
    failed(error, what) {
      told.failed(error, what);
      forget();
      if (what === "attack") sought = { row: test.row, norm: test.norm, other: null };
      shake();
    },
  });

  function shake() {
    if (known && known.row === sought?.row && known.norm === sought.norm) shaken.about({ ...known, other: sought.other });
  }

  function compare(row, finding) {
    paint(other, image, finding.adversarial);
    other.setAttribute("aria-label", `The closest image found with another answer: ${finding.adversarial_label}, at distance ${up(finding.distance, 3)}`);
    fill(otherSaid, `Answered ${finding.adversarial_label}, ${up(finding.distance, 4)} away`);
    const colours = palette();
    paintChange(change, image, row, finding.adversarial, { more: rgb(colours.observed), less: rgb(colours.certified), ground: rgb(colours.paper) });
    const most = row.reduce((largest, value, index) => Math.max(largest, Math.abs(finding.adversarial[index] - value)), 0);
    change.setAttribute("aria-label", `The change, at most ${near(most, 3)} in one number`);
    fill(changeSaid, `The change, made visible: at most ${near(most, 3)} in one number`);
  }

  function forget() {
    for (const one of [other, change]) paint(one, image, blank());
    fill(otherSaid, "None was found");
    fill(changeSaid);
  }

  function stale(is) {
    for (const one of [other, change, noisy]) one.classList.toggle("stale", is);
  }

  drawable(mine, image, {
    values: () => test.row,
    tool: () => tool,
    changed: (row) => test.move(row),
    cursor: (row, column, value) => announce(`Row ${row + 1}, column ${column + 1}: ${near(value, 2)}`),
  });

  function offer() {
    const chosen = Array.from({ length: Math.min(SHOWN, samples.inputs.length) }, (_, index) => (first + index) % samples.inputs.length);
    fill(strip, chosen.map((index) => {
      const small = h("canvas", { "aria-hidden": "true" });
      paint(small, image, samples.inputs[index]);
      const label = model.classes[samples.labels[index]];
      return h("button", { type: "button", class: "sample", title: label, "aria-label": `Sample ${index + 1}: ${label}`, onclick: () => test.move(samples.inputs[index]) }, small);
    }), samples.inputs.length > SHOWN
      ? h("button", { type: "button", class: "quiet", onclick: () => { first = (first + SHOWN) % samples.inputs.length; offer(); } }, "Other samples") : null);
  }

  const figure = (caption, ...content) => h("figure", { class: "picture" }, content, caption);
  fill(place, h("div", { class: "trial-view" },
    h("section", { class: "card", "aria-label": "Images" },
      h("div", { class: "pictures" },
        figure(mineSaid, mine), figure(otherSaid, other), figure(changeSaid, change)),
      h("div", { class: "row" },
        choice("Pen", [["draw", "draw"], ["erase", "erase"]], tool, (value) => { tool = value; }),
        h("button", { type: "button", class: "quiet", onclick: () => test.move(blank()) }, "Clear")),
      h("p", { class: "hint", id: "drawing-keys" }, "Draw with the pointer, or by keys: arrows move, Space paints, Backspace erases."),
      samples ? h("section", { "aria-label": "Samples" }, h("h2", {}, "Or take a sample"), strip)
        : h("p", { class: "hint" }, "No samples lie beside this model; ", h("code", {}, "lipmodel train"), " writes them as NAME.samples.npz.")),
    h("div", {}, told.element)),
  h("div", { class: "trial-view" }, shaken.element, h("div", { class: "card" }, figure(noisySaid, noisy))));

  if (samples) offer();
  test.move(samples ? samples.inputs[0] : blank());
  return {
    measure: (by) => test.measure(by),
    close() { test.close(); shaken.close(); },
  };
}
