// What is said of the input on trial: the answer and its certificate, and what the attack found.

import { announce, badge, facts, fill, h, notice, problem } from "../../dom.js";
import { count, down, norm as symbol, percent, up } from "../../numbers.js";

const SECOND_MS = 1000;
const WARNINGS = { "outside-input-box": "A number lies far outside the range that the file names for its inputs" };

/**
 * The text beside a picture; what is in it is said to screen readers once the input rests.
 * @param {(label: number) => Element | null} mark stands before the answer, of the class with that index
 */
export function panel(mark = () => null) {
  const answer = h("div", {});
  const finding = h("div", {});
  const pace = h("p", { class: "hint pace" });
  const element = h("section", { class: "card trial", "aria-label": "Answer and certificate" }, answer, finding, pace);
  const times = [];
  let shown = 0;
  let most = 0;
  let last = null;

  function keepPace() {
    const now = performance.now();
    times.push(now);
    while (now - times[0] > SECOND_MS) times.shift();
    shown += 1;
    most = Math.max(most, times.length);
    element.dataset.certificates = shown;
    pace.textContent = shown === 1 ? "1 certificate shown" : `${count(shown)} certificates shown, up to ${most} in a second`;
  }

  return {
    element,
    answered(prediction, norm) {
      last = prediction;
      fill(answer, verdict(prediction, norm, mark));
      keepPace();
    },
    searching() {
      fill(finding, h("p", { class: "hint", role: "status" }, "Looking for the closest input with another answer …"));
    },
    found(found, norm) {
      fill(finding, judged(found, norm));
      announce(`${last ? said(last, norm) : ""} ${heard(found, norm)}`);
    },
    failed(error, what) {
      fill(what === "predict" ? answer : finding, what === "predict" ? problem(error) : unsearched(error));
      if (what === "predict") fill(finding);
    },
  };
}

function verdict(prediction, norm, mark) {
  const { certified_radius: radius, warnings } = prediction;
  return [
    warnings.map(({ kind }) => notice("warn", WARNINGS[kind] ?? kind, h("p", {}, "The certificate holds all the same, but says little of an input unlike those that the model was trained for."))),
    h("p", { class: "answer" }, prediction.abstained ? badge("Withheld by the model's policy", "warn") : [mark(prediction.label_index), prediction.label]),
    facts([
      ["Certified radius", h("strong", { class: "number" }, down(radius)), ` in ${symbol(norm)}`],
      ["Runner-up", prediction.runner_up],
      ["Margin", down(prediction.margin)],
    ]),
    h("p", { class: "hint" }, radius > 0
      ? `Proved: no change of at most this size, measured in ${symbol(norm)}, alters the answer.`
      : "Nothing is certified here: the answer is too close to another."),
  ];
}

function judged(found, norm) {
  if (found.refuted) {
    return notice("bad", "The certificate is refuted", h("p", {},
      `A change of ${up(found.distance)} in ${symbol(norm)} gives ${found.adversarial_label}, `
      + `within the certified radius ${down(found.certified_radius)}. Please report this.`));
  }
  if (!found.found) {
    return notice("plain", "No input with another answer was found", h("p", {}, "The search proves nothing; the radius does."));
  }
  return [
    facts([
      ["Closest attack", h("strong", { class: "number" }, up(found.distance)), ` to ${found.adversarial_label}`],
      ["Certified of that", percent(found.certified_radius / found.distance, 0)],
    ]),
    gauge(found.certified_radius, found.distance),
    h("p", { class: "hint" }, "The nearest other answer lies past the blue, where it is proved that there is none, and no further "
      + "than the mark, where the audit's attack found one."),
  ];
}

/** How far the certificate reaches, and where the attack got through: a picture of the two numbers above it. */
export function gauge(radius, distance, whole = 1.15 * distance) {
  const proved = h("span", { class: "proved" });
  const other = h("span", { class: "other", hidden: distance === null });
  proved.style.width = `${Math.min(100, (100 * radius) / whole)}%`;
  if (distance !== null) other.style.left = `${(100 * distance) / whole}%`;
  return h("div", { class: "gauge", "aria-hidden": "true" }, proved, other);
}

function unsearched(error) {
  return error.offline || error.status >= 500 ? problem(error)
    : notice("plain", "No search was made for an input with another answer", h("p", {}, error.message));
}

const said = (prediction, norm) => (prediction.abstained ? "Answer withheld." : `Answer ${prediction.label}.`)
  + ` Certified radius ${down(prediction.certified_radius, 3)} in norm ${norm}.`;
const heard = (found) => (found.refuted ? `Refuted: another answer at distance ${up(found.distance, 3)}.`
  : found.found ? `Closest other answer found: ${found.adversarial_label}, at distance ${up(found.distance, 3)}.`
    : "No other answer was found.");
