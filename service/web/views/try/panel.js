// Results panel of the Try it view: the prediction, its certificate, and the adversarial example found.

import { announce, badge, facts, fill, h, notice, problem } from "../../dom.js";
import { count, down, norm as symbol, percentDown, up } from "../../numbers.js";

const SECOND_MS = 1000;
const WARNINGS = { "outside-input-box": "A value lies far outside the input range that the file states" };

/**
 * Build the results panel; its contents are announced to screen readers when an attack search ends.
 * @param {(label: number) => Element | null} mark builds the element shown before the label, from the class index
 */
export function panel(mark = () => null) {
  const result = h("div", {});
  const finding = h("div", {});
  const pace = h("p", { class: "hint pace" });
  const element = h("section", { class: "card trial", "aria-label": "Prediction and certificate" }, result, finding, pace);
  const times = [];
  let shown = 0;
  let fastest = 0;
  let last = null;

  function updatePace() {
    const now = performance.now();
    times.push(now);
    while (now - times[0] > SECOND_MS) times.shift();
    shown += 1;
    fastest = Math.max(fastest, times.length);
    element.dataset.certificates = shown;
    pace.textContent = shown === 1 ? "1 certificate shown" : `${count(shown)} certificates shown, up to ${fastest} per second`;
  }

  return {
    element,
    predicted(prediction, norm) {
      last = prediction;
      fill(result, describe(prediction, norm, mark));
      updatePace();
    },
    searching() {
      fill(finding, h("p", { class: "hint", role: "status" }, "Searching for an adversarial example …"));
    },
    found(found, norm) {
      fill(finding, describeFinding(found, norm));
      announce(`${last ? spoken(last, norm) : ""} ${spokenFinding(found)}`);
    },
    failed(error, operation) {
      fill(operation === "predict" ? result : finding, operation === "predict" ? problem(error) : searchFailed(error));
      if (operation === "predict") fill(finding);
    },
  };
}

function describe(prediction, norm, mark) {
  const { certified_radius: radius, warnings } = prediction;
  return [
    warnings.map(({ kind }) => notice("warn", WARNINGS[kind] ?? kind, h("p", {}, "The certificate is still valid, but the input is unlike the training data, so the label may be meaningless."))),
    h("p", { class: "answer" }, prediction.abstained ? badge("Label withheld by the model's policy", "warn") : [mark(prediction.label_index), prediction.label]),
    facts([
      ["Certified radius", h("strong", { class: "number" }, down(radius)), ` (${symbol(norm)})`],
      ["Runner-up", prediction.runner_up],
      ["Margin", down(prediction.margin)],
    ]),
    h("p", { class: "hint" }, radius > 0
      ? `Proved: no change of the input within this radius in ${symbol(norm)} changes the label.`
      : "Nothing is certified: the margin is too small."),
  ];
}

function describeFinding(found, norm) {
  if (found.refuted) {
    return notice("bad", "The certificate is refuted", h("p", {},
      `An input at distance ${up(found.distance)} (${symbol(norm)}), within the certified radius ${down(found.certified_radius)}, `
      + `is classified as ${found.adversarial_label}. Please report this.`));
  }
  if (!found.found) {
    return notice("plain", "No adversarial example was found", h("p", {}, "The search proves nothing beyond the certified radius."));
  }
  return [
    facts([
      ["Nearest adversarial example", h("strong", { class: "number" }, up(found.distance)), ` (${found.adversarial_label})`],
      ["Radius / distance", percentDown(found.certified_radius / found.distance, 0)],
    ]),
    gauge(found.certified_radius, found.distance),
    h("p", { class: "hint" }, "The nearest differently classified input lies beyond the blue bar (proved) and no farther than the mark (found by attack)."),
  ];
}

/** Build a bar for the certified radius, with a mark at the distance of the adversarial example. */
export function gauge(radius, distance, whole = 1.15 * distance) {
  const proved = h("span", { class: "proved" });
  const found = h("span", { class: "other", hidden: distance === null });
  proved.style.width = `${Math.min(100, (100 * radius) / whole)}%`;
  if (distance !== null) found.style.left = `${(100 * distance) / whole}%`;
  return h("div", { class: "gauge", "aria-hidden": "true" }, proved, found);
}

function searchFailed(error) {
  return error.offline || error.status >= 500 ? problem(error)
    : notice("plain", "No attack search was made", h("p", {}, error.message));
}

const spoken = (prediction, norm) => (prediction.abstained ? "Label withheld." : `Label ${prediction.label}.`)
  + ` Certified radius ${down(prediction.certified_radius, 3)} in ${symbol(norm)}.`;
const spokenFinding = (found) => (found.refuted ? `Refuted: adversarial example at distance ${up(found.distance, 3)}.`
  : found.found ? `Nearest adversarial example: ${found.adversarial_label}, at distance ${up(found.distance, 3)}.`
    : "No adversarial example was found.");
