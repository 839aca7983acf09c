// A model of images: draw an image or choose a sample, and compare it with the nearest adversarial example.

import { announce, choice, fill, h } from "../../dom.js";
import { down, near, up } from "../../numbers.js";
import { palette } from "../../plots.js";
import { noise } from "./noise.js";
import { panel } from "./panel.js";
import { drawable, layout, paint, paintDifference, rgb } from "./pixels.js";
import { trial } from "./trial.js";

const SAMPLES_SHOWN = 20;

/** Show the image view; see try.js. */
export function show(container, { model, samples, norm }) {
  const image = layout(model, samples);
  const results = panel();
  const blank = () => Array(image.size).fill(image.low);
  const canvas = (label) => h("canvas", { class: "pixels", role: "img", "aria-label": label });
  const input = h("canvas", { class: "pixels drawn", tabindex: 0, role: "application", "aria-roledescription": "drawing", "aria-describedby": "drawing-keys" });
  const [adversarial, difference, perturbed] = [canvas("No adversarial example yet"), canvas("No difference yet"), canvas("No perturbed image yet")];
  const inputCaption = h("figcaption", {}, "Input");
  const [adversarialCaption, differenceCaption, perturbedCaption] = [h("figcaption", {}), h("figcaption", {}), h("figcaption", {}, "Perturbed input")];
  const strip = h("div", { class: "samples" });
  let tool = "draw";
  let first = 0;
  let prediction = null; // of the input; and
  let search = null; // the result of its attack search: they arrive in either order

  const labelOf = (found) => found.label ?? "label withheld";
  const perturbation = noise(model, (values, found) => {
    paint(perturbed, image, values);
    if (found) {
      fill(perturbedCaption, `Perturbed input: ${labelOf(found)}`);
      perturbed.setAttribute("aria-label", `Perturbed input: ${labelOf(found)}`);
    }
  });
  for (const picture of [adversarial, difference, perturbed]) paint(picture, image, blank());

  const session = trial(model, norm, {
    moved(row) {
      prediction = search = null;
      perturbation.setSubject(null);
      paint(input, image, row);
      setStale(true);
    },
    predicted(found, row, usedNorm) {
      results.predicted(found, usedNorm);
      fill(inputCaption, `Input: ${labelOf(found)}`);
      input.setAttribute("aria-label", `Input: ${labelOf(found)}, certified radius ${down(found.certified_radius, 3)}`);
      prediction = { row, prediction: found, norm: usedNorm };
      updatePerturbation();
    },
    searching: () => results.searching(),
    found(finding, row, usedNorm) {
      results.found(finding, usedNorm);
      setStale(false);
      if (finding.found) compare(row, finding);
      else clearComparison();
      search = { row, norm: usedNorm, other: finding.found ? finding : null };
      updatePerturbation();
    },
    failed(error, operation) {
      results.failed(error, operation);
      clearComparison();
      if (operation === "attack") search = { row: session.row, norm: session.norm, other: null };
      updatePerturbation();
    },
  });

  function updatePerturbation() {
    if (prediction && prediction.row === search?.row && prediction.norm === search.norm) perturbation.setSubject({ ...prediction, other: search.other });
  }

  function compare(row, finding) {
    paint(adversarial, image, finding.adversarial);
    adversarial.setAttribute("aria-label", `Nearest adversarial example: ${finding.adversarial_label}, at distance ${up(finding.distance, 3)}`);
    fill(adversarialCaption, `Adversarial: ${finding.adversarial_label}, at distance ${up(finding.distance, 4)}`);
    const colours = palette();
    paintDifference(difference, image, row, finding.adversarial, { more: rgb(colours.observed), less: rgb(colours.certified), ground: rgb(colours.paper) });
    const largest = row.reduce((maximum, value, index) => Math.max(maximum, Math.abs(finding.adversarial[index] - value)), 0);
    difference.setAttribute("aria-label", `Difference, at most ${near(largest, 3)} per value`);
    fill(differenceCaption, `Difference, amplified: at most ${near(largest, 3)} per value`);
  }

  function clearComparison() {
    for (const picture of [adversarial, difference]) paint(picture, image, blank());
    fill(adversarialCaption, "No adversarial example");
    fill(differenceCaption);
  }

  function setStale(stale) {
    for (const picture of [adversarial, difference, perturbed]) picture.classList.toggle("stale", stale);
  }

  drawable(input, image, {
    values: () => session.row,
    tool: () => tool,
    changed: (row) => session.move(row),
    cursor: (row, column, value) => announce(`Row ${row + 1}, column ${column + 1}: ${near(value, 2)}`),
  });

  function showSamples() {
    const chosen = Array.from({ length: Math.min(SAMPLES_SHOWN, samples.inputs.length) }, (_, index) => (first + index) % samples.inputs.length);
    fill(strip, chosen.map((index) => {
      const small = h("canvas", { "aria-hidden": "true" });
      paint(small, image, samples.inputs[index]);
      const label = model.classes[samples.labels[index]];
      return h("button", { type: "button", class: "sample", title: label, "aria-label": `Sample ${index + 1}: ${label}`, onclick: () => session.move(samples.inputs[index]) }, small);
    }), samples.inputs.length > SAMPLES_SHOWN
      ? h("button", { type: "button", class: "quiet", onclick: () => { first = (first + SAMPLES_SHOWN) % samples.inputs.length; showSamples(); } }, "More samples") : null);
  }

  const figure = (caption, ...content) => h("figure", { class: "picture" }, content, caption);
  fill(container, h("div", { class: "trial-view" },
    h("section", { class: "card", "aria-label": "Images" },
      h("div", { class: "pictures" },
        figure(inputCaption, input), figure(adversarialCaption, adversarial), figure(differenceCaption, difference)),
      h("div", { class: "row" },
        choice("Pen", [["draw", "draw"], ["erase", "erase"]], tool, (value) => { tool = value; }),
        h("button", { type: "button", class: "quiet", onclick: () => session.move(blank()) }, "Clear")),
      h("p", { class: "hint", id: "drawing-keys" }, "Draw with the pointer or the keyboard: arrow keys move, Space paints, Backspace erases."),
      samples ? h("section", { "aria-label": "Samples" }, h("h2", {}, "Samples"), strip)
        : h("p", { class: "hint" }, "This model has no stored samples; ", h("code", {}, "lipmodel train"), " writes them to NAME.samples.npz.")),
    h("div", {}, results.element)),
  h("div", { class: "trial-view" }, perturbation.element, h("div", { class: "card" }, figure(perturbedCaption, perturbed))));

  if (samples) showSamples();
  session.move(samples ? samples.inputs[0] : blank());
  return {
    setNorm: (to) => session.setNorm(to),
    close() { session.close(); perturbation.close(); },
  };
}
