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
      h("div", { class: "columns" }, sizes(result), quantiles(result)), classes(result)];
  });
  return () => { stop(); drawn?.remove(); };
}

function betweenText({ attacked_samples: attacked, samples }) {
  if (!attacked) return "The curve is proved from below. Without attacks nothing is known from above: start it again with some.";
  const some = attacked < samples ? ` Attacks saw the first ${numbers.count(attacked)} of ${numbers.count(samples)} inputs, so the two curves are of different inputs.` : "";
  return `What is proved lies below, what attacks leave lies above: the truth is between the two.${some}`;
}

const interval = (ends) => (ends ? `95%: ${numbers.percent(ends[0])} – ${numbers.percent(ends[1])}` : "");

function keyFigures(result) {
  const cell = (term, value, more) => h("div", {}, h("dt", {}, term), h("dd", {}, value, h("small", {}, more)));
  return h("dl", { class: "big card" },
    cell("Right answers", numbers.percent(result.clean_accuracy), interval(result.clean_accuracy_interval)),
    cell("Mean certified radius", numbers.down(result.average_certified_radius, 4), `${numbers.norm(result.norm)}, 0 where wrong`),
    cell("Inputs", numbers.count(result.samples), `${numbers.count(result.attacked_samples)} attacked`),
    cell("Radii", result.tightened ? "tightened" : "usual", `median of right answers ${numbers.down(result.certified_radius_quantiles["0.5"], 4)}`));
}

/**
 * Certified accuracy below, attacked accuracy above, of one evaluation or several in one norm.
 * @param {{name: string, result: object}[]} evaluations
 */
export function accuracyFigure(evaluations) {
  const [{ result: first }] = evaluations;
  const attacked = ({ attacked_accuracy: shares, clean_accuracy: clean, attacked_samples: some }) =>
    (some ? Object.entries(shares).map(([epsilon, share]) => [Number(epsilon), share]).sort(([a], [b]) => a - b) : []);
  const tableOf = Object.keys(first.certified_accuracy).map(Number).sort((a, b) => a - b);
  return figure({
    title: `Certified and attacked accuracy, ${numbers.norm(first.norm)}`, name: "accuracy", height: "tall",
    alt: evaluations.map(({ name, result }) => `${name}: ${numbers.percent(result.clean_accuracy)} right without a change; `
      + Object.entries(result.certified_accuracy).map(([epsilon, share]) => `at ${epsilon} ${numbers.percent(share)} certified`
        + (result.attacked_samples ? `, ${numbers.percent(result.attacked_accuracy[epsilon])} after attacks` : "")).join("; ")).join(". "),
    columns: ["Size of change", ...evaluations.flatMap(({ name }) => [`Certified, ${name}`, `Attacked, ${name}`]).map((name) => ({ name, numeric: true }))],
    rows: tableOf.map((epsilon) => [numbers.near(epsilon), ...evaluations.flatMap(({ result }) =>
      [numbers.percent(result.certified_accuracy[`${epsilon}`]), numbers.percent(result.attacked_accuracy[`${epsilon}`])])]),
    build: (colours) => ({
      data: evaluations.flatMap(({ name, result }, index) => {
        const dash = index ? "dash" : "solid";
        const label = evaluations.length > 1 ? `, ${name}` : "";
        const above = attacked(result);
        const lines = [{
          type: "scatter", mode: "lines", x: result.curve.epsilon, y: result.curve.certified_accuracy, name: `certified${label}`,
          line: { color: colours.certified, width: 2.5, dash }, hovertemplate: "%{y:.1%} certified at %{x:.4g}<extra></extra>",
        }];
        if (above.length) {
          lines.push({
            type: "scatter", mode: "lines+markers", x: above.map(([epsilon]) => epsilon), y: above.map(([, share]) => share), name: `after attacks${label}`,
            line: { color: colours.observed, width: 2, dash }, marker: { size: 5 }, hovertemplate: "%{y:.1%} after attacks at %{x:.4g}<extra></extra>",
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

function sizes(result) {
  const rows = Object.entries(result.certified_accuracy).map(([epsilon, share]) => [epsilon, numbers.percent(share), interval(result.certified_accuracy_intervals[epsilon]),
    numbers.percent(result.attacked_accuracy[epsilon])]);
  if (!rows.length) return null;
  return section("At each size of change", h("div", { class: "card" }, table("Accuracy at each size of change",
    ["Size", { name: "Certified", numeric: true }, "Interval", { name: "After attacks", numeric: true }], rows, { hideCaption: true })));
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
