// Changes of a given size, at random or towards what an attack found: does the answer hold?

import { choice, fill, h, notice, problem } from "../../dom.js";
import { count, down, norm as symbol, up } from "../../numbers.js";
import { gauge } from "./panel.js";
import { predict } from "./wire.js";

const TRIED = 64; // at most; of large inputs fewer, so that a request stays small
const NUMBERS = 500_000;
const STEPS = 200;
const FIRST = 72; // within the radius, where the slider begins
const BARELY_LESS = 1 - 1e-9; // so that rounding of x + δ seldom takes a change of the radius' own size past it

/**
 * The distance of two inputs in a norm, never less than it is. Each of n differences, and each of the operations on them
 * in turn, is off by at most half of EPSILON, relatively; scaled to at most 1, none underflows that matters.
 */
function distanceUp(from, to, norm) {
  const moved = to.map((value, index) => Math.abs(value - from[index]));
  const largest = moved.reduce((a, b) => Math.max(a, b), 0);
  if (!largest) return 0;
  const sum = (of) => moved.reduce((total, value) => total + of(value / largest), 0);
  const size = { 1: () => sum((share) => share), 2: () => Math.sqrt(sum((share) => share * share)), inf: () => 1 }[norm]();
  return largest * size * (1 + (moved.length + 16) * Number.EPSILON);
}

/** A random change of size 1 in a norm: a Gaussian's direction, signs alone, or shares of one. */
function direction(size, norm) {
  const gaussian = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const sign = () => (Math.random() < 0.5 ? -1 : 1);
  const one = { 1: () => -sign() * Math.log(1 - Math.random()), 2: gaussian, inf: sign }[norm];
  const raw = Array.from({ length: size }, one);
  const length = norm === "inf" ? 1 : norm === "2" ? Math.sqrt(raw.reduce((sum, value) => sum + value * value, 0)) : raw.reduce((sum, value) => sum + Math.abs(value), 0);
  return raw.map((value) => value / length);
}

/**
 * A slider from no change to well past the radius, and what the service answers there.
 * @param {object} model
 * @param {(values: number[], answer: object | null) => void} show draws the changed input, and says its answer once known
 */
export function noise(model, show) {
  const tried = Math.max(1, Math.min(TRIED, Math.floor(NUMBERS / model.input_size)));
  let about = null; // {row, prediction, norm, other}
  let ways = { norm: null, all: [] }; // random changes of size 1
  let towards = "random";
  let asked = false;
  let waiting = false;

  const slider = h("input", { type: "range", min: 0, max: STEPS, value: FIRST, id: "noise", "aria-describedby": "noise-scale" });
  const scale = h("p", { class: "hint", id: "noise-scale" });
  const track = h("div", {});
  const result = h("div", { role: "status" });
  const most = () => Math.max(2.5 * about.prediction.certified_radius, 1.25 * (about.other?.distance ?? 0)) || 1;
  const size = () => (slider.value / STEPS) * most();
  const again = h("button", { type: "button", onclick: () => { ways.norm = null; ask(); } }, "Other random changes");

  const element = h("section", { class: "card noise", "aria-label": "Noise" },
    h("h2", {}, "Add noise"),
    choice("Change", [["random", "at random"], ["other", "towards the closest attack"]], towards, (value) => { towards = value; ask(); }),
    h("label", { for: "noise" }, "Size of the change"), slider, track, scale, result, h("p", {}, again));

  slider.addEventListener("input", () => ask());

  /** The changed inputs at the slider's size; the first is the one shown. */
  function changed() {
    const { row, norm, other } = about;
    if (ways.norm !== norm) ways = { norm, all: Array.from({ length: tried }, () => direction(row.length, norm)) };
    const amount = size() * BARELY_LESS;
    const random = ways.all.map((way) => row.map((value, index) => value + amount * way[index]));
    if (towards === "random" || !other) return random;
    const share = amount / other.distance;
    return [row.map((value, index) => value + share * (other.adversarial[index] - value)), ...random];
  }

  async function ask() {
    waiting = true;
    if (asked) return;
    asked = true;
    while (waiting) {
      waiting = false;
      if (!about) break;
      const [subject, rows] = [about, changed()];
      const { certified_radius: radius } = subject.prediction;
      // What is judged is the change that is sent, not the one that was meant: rounding lies between the two.
      const covered = rows.map((row) => radius > 0 && distanceUp(subject.row, row, subject.norm) <= radius);
      tell(covered.every(Boolean));
      show(rows[0], null);
      try {
        const answers = await predict(model, rows, subject.norm);
        if (subject === about) {
          judge(subject, answers, covered, rows.length > tried);
          show(rows[0], answers[0]);
        }
      } catch (error) {
        fill(result, problem(error));
      }
    }
    asked = false;
  }

  function tell(inside) {
    const [amount, radius] = [size(), about.prediction.certified_radius];
    fill(track, gauge(radius, about.other?.distance ?? null, most()));
    slider.setAttribute("aria-valuetext", `${down(amount, 3)}, ${inside ? "within" : "past"} the certified radius`);
    scale.textContent = `${down(amount, 4)} of ${up(most(), 3)} in ${symbol(about.norm)}; certified up to ${down(radius, 4)}`;
  }

  function judge({ prediction, norm }, answers, covered, aimed) {
    const label = prediction.label_index;
    if (prediction.abstained) {
      fill(result, notice("plain", "The answer is withheld, so there is none to keep"));
      return;
    }
    const random = aimed ? answers.slice(1) : answers;
    const kept = random.filter((answer) => answer.label_index === label).length;
    const withheld = random.filter((answer) => answer.abstained).length;
    const inside = covered.every(Boolean);
    const [shown] = answers;
    const first = shown.abstained ? "The answer to the changed input is withheld."
      : `The changed input is ${shown.label_index === label ? "still " : ""}answered ${shown.label}.`;
    const told = `${count(kept)} of ${count(random.length)} random changes of this size keep the answer${withheld ? `; of ${count(withheld)} it is withheld` : ""}.`;
    const broken = answers.some((answer, index) => covered[index] && !answer.abstained && answer.label_index !== label);
    fill(result, broken
      ? notice("bad", "The certificate is refuted", h("p", {}, `A change within the radius in ${symbol(norm)} alters the answer. Please report this.`))
      : inside
        ? notice("good", "Within the radius: the answer holds", h("p", {}, first, " ", told))
        : notice(shown.label_index === label ? "plain" : "warn", "Past the radius: nothing is promised", h("p", {}, first, " ", told)));
  }

  return {
    element,
    /** The input, its answer and what the attack found of it; null while these are not known. */
    about(next) {
      about = next;
      element.classList.toggle("stale", !next);
      if (next) ask();
    },
    close() { about = null; waiting = false; },
  };
}
