// Perturbations of a given size, at random or towards the adversarial example: does the label hold?

import { choice, fill, h, notice, problem } from "../../dom.js";
import { count, down, norm as symbol, up } from "../../numbers.js";
import { gauge } from "./panel.js";
import { predict } from "./wire.js";

const MAX_PERTURBATIONS = 64;
const MAX_NUMBERS = 500_000; // a request; large inputs get fewer perturbations
const STEPS = 200;
const INITIAL_STEP = 72; // within the radius
const SHRINK = 1 - 1e-9; // so that rounding of x + δ seldom takes a δ of the size of the radius beyond it

/**
 * Return an upper bound of the distance of two inputs in a norm. Each of the n differences, and each later operation on
 * them, has a relative rounding error of at most EPSILON / 2; scaled to at most 1, no underflow matters.
 */
function distanceUp(from, to, norm) {
  const moved = to.map((value, index) => Math.abs(value - from[index]));
  const largest = moved.reduce((a, b) => Math.max(a, b), 0);
  if (!largest) return 0;
  const sum = (term) => moved.reduce((total, value) => total + term(value / largest), 0);
  const size = { 1: () => sum((share) => share), 2: () => Math.sqrt(sum((share) => share * share)), inf: () => 1 }[norm]();
  return largest * size * (1 + (moved.length + 16) * Number.EPSILON);
}

/** Return a random perturbation of norm 1: a Gaussian direction (l2), random signs (linf), or random exponential parts (l1). */
function direction(size, norm) {
  const gaussian = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const sign = () => (Math.random() < 0.5 ? -1 : 1);
  const entry = { 1: () => -sign() * Math.log(1 - Math.random()), 2: gaussian, inf: sign }[norm];
  const raw = Array.from({ length: size }, entry);
  const length = norm === "inf" ? 1 : norm === "2" ? Math.sqrt(raw.reduce((sum, value) => sum + value * value, 0)) : raw.reduce((sum, value) => sum + Math.abs(value), 0);
  return raw.map((value) => value / length);
}

/**
 * Build a slider for the perturbation size, from 0 to well beyond the radius, with the predictions at that size.
 * @param {object} model
 * @param {(values: number[], prediction: object | null) => void} show draws the perturbed input, and its prediction once known
 */
export function noise(model, show) {
  const randomCount = Math.max(1, Math.min(MAX_PERTURBATIONS, Math.floor(MAX_NUMBERS / model.input_size)));
  let subject = null; // {row, prediction, norm, other}
  let directions = { norm: null, all: [] }; // random perturbations of size 1
  let towards = "random";
  let running = false;
  let pending = false;

  const slider = h("input", { type: "range", min: 0, max: STEPS, value: INITIAL_STEP, id: "noise", "aria-describedby": "noise-scale" });
  const scale = h("p", { class: "hint", id: "noise-scale" });
  const track = h("div", {});
  const result = h("div", { role: "status" });
  const largest = () => Math.max(2.5 * subject.prediction.certified_radius, 1.25 * (subject.other?.distance ?? 0)) || 1;
  const size = () => (slider.value / STEPS) * largest();
  const again = h("button", { type: "button", onclick: () => { directions.norm = null; update(); } }, "New random perturbations");

  const element = h("section", { class: "card noise", "aria-label": "Perturbation" },
    h("h2", {}, "Perturb the input"),
    choice("Direction", [["random", "random"], ["other", "towards the adversarial example"]], towards, (value) => { towards = value; update(); }),
    h("label", { for: "noise" }, "Perturbation size"), slider, track, scale, result, h("p", {}, again));

  slider.addEventListener("input", () => update());

  /** Return the perturbed inputs at the slider's size; the first is shown. */
  function perturbed() {
    const { row, norm, other } = subject;
    if (directions.norm !== norm) directions = { norm, all: Array.from({ length: randomCount }, () => direction(row.length, norm)) };
    const amount = size() * SHRINK;
    const random = directions.all.map((step) => row.map((value, index) => value + amount * step[index]));
    if (towards === "random" || !other) return random;
    const share = amount / other.distance;
    return [row.map((value, index) => value + share * (other.adversarial[index] - value)), ...random];
  }

  async function update() {
    pending = true;
    if (running) return;
    running = true;
    while (pending) {
      pending = false;
      if (!subject) break;
      const [current, rows] = [subject, perturbed()];
      const { certified_radius: radius } = current.prediction;
      // The perturbation that is sent is compared with the radius, not the intended one: rounding lies between the two.
      const covered = rows.map((row) => radius > 0 && distanceUp(current.row, row, current.norm) <= radius);
      showScale(covered.every(Boolean));
      show(rows[0], null);
      try {
        const predictions = await predict(model, rows, current.norm);
        if (current === subject) {
          showResult(current, predictions, covered, rows.length > randomCount);
          show(rows[0], predictions[0]);
        }
      } catch (error) {
        fill(result, problem(error));
      }
    }
    running = false;
  }

  function showScale(inside) {
    const [amount, radius] = [size(), subject.prediction.certified_radius];
    fill(track, gauge(radius, subject.other?.distance ?? null, largest()));
    slider.setAttribute("aria-valuetext", `${down(amount, 3)}, ${inside ? "within" : "beyond"} the certified radius`);
    scale.textContent = `${down(amount, 4)} of at most ${up(largest(), 3)} (${symbol(subject.norm)}); certified radius ${down(radius, 4)}`;
  }

  function showResult({ prediction, norm }, predictions, covered, aimed) {
    const label = prediction.label_index;
    if (prediction.abstained) {
      fill(result, notice("plain", "The label is withheld, so it cannot be compared"));
      return;
    }
    const random = aimed ? predictions.slice(1) : predictions;
    const kept = random.filter(({ label_index: index }) => index === label).length;
    const withheld = random.filter(({ abstained }) => abstained).length;
    const inside = covered.every(Boolean);
    const [shown] = predictions;
    const first = shown.abstained ? "The label of the perturbed input is withheld."
      : `The perturbed input is ${shown.label_index === label ? "still " : ""}classified as ${shown.label}.`;
    const summary = `${count(kept)} of ${count(random.length)} random perturbations of this size keep the label${withheld ? `; for ${count(withheld)} it is withheld` : ""}.`;
    const refuted = predictions.some((found, index) => covered[index] && !found.abstained && found.label_index !== label);
    fill(result, refuted
      ? notice("bad", "The certificate is refuted", h("p", {}, `A perturbation within the radius (${symbol(norm)}) changes the label. Please report this.`))
      : inside
        ? notice("good", "Within the radius: the label is certified", h("p", {}, first, " ", summary))
        : notice(shown.label_index === label ? "plain" : "warn", "Beyond the radius: nothing is certified", h("p", {}, first, " ", summary)));
  }

  return {
    element,
    /** Set the input, its prediction and the adversarial example found; null while these are unknown. */
    setSubject(next) {
      subject = next;
      element.classList.toggle("stale", !next);
      if (next) update();
    },
    close() { subject = null; pending = false; },
  };
}
