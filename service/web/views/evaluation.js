// One evaluation: what is certified of labelled data, and what attacks leave of it.

import { h, section, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { figure } from "../plots.js";
import { followed } from "./job.js";

export async function show(container, { id }) {
  let drawn = null;
  const stop = await followed(container, "evaluation", id, (job) => {
    const { result } = job;
    drawn = accuracyFigure([{ name: job.model.name, result }]);
    return [keyFigures(result), section("Accuracy against the size of a change", h("p", { class: "hint" }, betweenText(result)), drawn.element),
      h("div", { class: "columns" }, quantiles(result), classes(result))];
  });
  return () => { stop(); drawn?.remove(); };
}

function betweenText({ attacked_samples: attacked, samples }) {
  if (!attacked) return "The curve is proved from below. Without attacks nothing is known from above: start it again with some.";
  const some = attacked < samples ? ` Attacks saw the first ${numbers.count(attacked)} of ${numbers.count(samples)} inputs, so the two curves are of different inputs.` : "";
  return `What is proved lies below, what attacks leave lies above: the truth is between the two.${some}`;
}

const interval = (ends) => (ends ? `${numbers.percent(ends[0])} – ${numbers.percent(ends[1])}` : "–");
/** The sizes of change that figures were asked at, as they are written there. */
const sizesOf = (result) => Object.keys(result.certified_accuracy).sort((a, b) => a - b);

function keyFigures(result) {
  const cell = (term, value, more) => h("div", {}, h("dt", {}, term), h("dd", {}, value, h("small", {}, more)));
  return h("dl", { class: "big card" },
    cell("Right answers", numbers.percent(result.clean_accuracy), `95%: ${interval(result.clean_accuracy_interval)}`),
    cell("Mean certified radius", numbers.down(result.average_certified_radius, 4), `${numbers.norm(result.norm)}, 0 where wrong`),
    cell("Inputs", numbers.count(result.samples), `${numbers.count(result.attacked_samples)} attacked`),
    cell("Radii", result.tightened ? "tightened" : "usual", `median of right answers ${numbers.down(result.certified_radius_quantiles["0.5"], 4)}`));
}

/**
 * Between two sizes the certified share is at least that of the larger, the attacked one at most that of the smaller:
 * so the steps go. Certified accuracy below, attacked accuracy above, of one evaluation or several in one norm.
 * @param {{name: string, result: object}[]} evaluations
 */
export function accuracyFigure(evaluations) {
  const [{ result: first }] = evaluations;
  const attacked = ({ attacked_accuracy: shares, clean_accuracy: clean, attacked_samples: some, samples }) => {
    const found = Object.entries(shares).map(([epsilon, share]) => [Number(epsilon), share]).sort(([a], [b]) => a - b);
    return found.length && some === samples && found[0][0] > 0 ? [[0, clean], ...found] : found;
  };
  const single = evaluations.length === 1;
  return figure({
    title: `Certified and attacked accuracy, ${numbers.norm(first.norm)}`, name: "accuracy", height: "tall",
    alt: evaluations.map(({ name, result }) => `${name}: ${numbers.percent(result.clean_accuracy)} right without a change; `
      + sizesOf(result).map((epsilon) => [epsilon, result.certified_accuracy[epsilon]]).map(([epsilon, share]) => `at ${epsilon} ${numbers.percent(share)} certified`
        + (result.attacked_samples ? `, ${numbers.percent(result.attacked_accuracy[epsilon])} after attacks` : "")).join("; ")).join(". "),
    columns: ["Size of change", ...evaluations.flatMap(({ name }) => (single ? ["Certified", "95% interval", "After attacks", "95% interval"]
      : [`Certified, ${name}`, `After attacks, ${name}`])).map((name) => ({ name, numeric: true }))],
    rows: [...new Set(evaluations.flatMap(({ result }) => sizesOf(result)))].sort((a, b) => a - b).map((epsilon) => [epsilon, ...evaluations.flatMap(({ result }) => {
      const [certified, withstood] = [[result.certified_accuracy, result.certified_accuracy_intervals], [result.attacked_accuracy, result.attacked_accuracy_intervals]]
        .map(([shares, intervals]) => [numbers.percent(shares[epsilon]), interval(intervals[epsilon])]);
      return single ? [...certified, ...withstood] : [certified[0], withstood[0]];
    })]),
    build: (colours) => ({
      data: evaluations.flatMap(({ name, result }, index) => {
        const dash = index ? "dash" : "solid";
        const label = evaluations.length > 1 ? `, ${name}` : "";
        const above = attacked(result);
        const end = Math.max(0, ...above.map(([epsilon]) => epsilon)); // beyond the largest radius nothing is certified
        const further = end > result.curve.epsilon.at(-1) ? [[result.curve.epsilon.at(-1), end], [0, 0]] : [[], []];
        const lines = [{
          type: "scatter", mode: "lines", x: [...result.curve.epsilon, ...further[0]], y: [...result.curve.certified_accuracy, ...further[1]], name: `certified${label}`,
          line: { color: colours.certified, width: 2.5, dash, shape: "vh" }, hovertemplate: "%{y:.1%} certified at %{x:.4g}<extra></extra>",
        }];
        if (above.length) {
          lines.push({
            type: "scatter", mode: "lines+markers", x: above.map(([epsilon]) => epsilon), y: above.map(([, share]) => share), name: `after attacks${label}`,
            line: { color: colours.observed, width: 2, dash, shape: "hv" }, marker: { size: 5 }, hovertemplate: "%{y:.1%} after attacks at %{x:.4g}<extra></extra>",
            ...(evaluations.length === 1 ? { fill: "tonexty", fillcolor: `${colours.muted}26` } : {}),
          });
        }
        return lines;
      }),
      layout: {
        xaxis: { title: `size of change (${numbers.norm(first.norm)})`, rangemode: "tozero" },
        yaxis: { title: "share of inputs", range: [0, 1.02], tickformat: ".0%" }, hovermode: "closest",
      },
    }),
  });
}

function quantiles({ certified_radius_quantiles: all, norm }) {
  return section("Radii of right answers", h("div", { class: "card" }, table(`Quantiles of the certified radius, ${numbers.norm(norm)}`,
    ["Share of them", { name: "Radius at most", numeric: true }], Object.entries(all).map(([share, radius]) => [numbers.percent(Number(share), 0), numbers.down(radius, 5)]))));
}

function classes({ per_class: all }) {
  return section("Class by class", h("div", { class: "card" }, table("Figures by the true class",
    ["Class", ...["Inputs", "Right", "Mean radius"].map((name) => ({ name, numeric: true }))],
    Object.entries(all).map(([name, one]) => [name, numbers.count(one.samples), numbers.percent(one.clean_accuracy), numbers.down(one.average_certified_radius, 4)]), { hideCaption: true })));
}
