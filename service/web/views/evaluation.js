// One evaluation: what is certified of labelled data, and what attacks leave of it.

import { h, section, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { figure } from "../plots.js";
import { followed, warnings } from "./job.js";

export async function show(container, { id }) {
  let drawn = null;
  const stop = await followed(container, "evaluation", id, (job) => {
    const { result } = job;
    drawn = accuracyFigure([{ name: job.model.name, result }]);
    return [...warnings(result), keyFigures(result), section("Accuracy against the size of a change", h("p", { class: "hint" }, betweenText(result)), drawn.element),
      h("div", { class: "columns" }, quantiles(result), classes(result))];
  });
  return () => { stop(); drawn?.remove(); };
}

/** What was measured of the inputs attacked; null without attacks. */
const sampleOf = (result) => result.attacked_sample ?? null;

function betweenText(result) {
  const sample = sampleOf(result);
  if (!sample) return "The curve is proved from below. Without attacks nothing is known from above: start it again with some.";
  const which = sample.samples < result.samples
    ? `Attacks saw ${numbers.count(sample.samples)} of ${numbers.count(result.samples)} inputs, a random sample in which each class has its share.`
    : "Attacks saw all inputs.";
  return `${which} Of these inputs the certified share lies below the truth, and the share that withstood the attacks above it: the truth is in the grey.`;
}

const interval = (ends) => (ends ? `${numbers.percent(ends[0])} – ${numbers.percent(ends[1])}` : "–");
/** The sizes of change that figures were asked at, as they are written there. */
const sizesOf = (result) => Object.keys(result.certified_accuracy).sort((a, b) => a - b);

function keyFigures(result) {
  const cell = (term, value, more) => h("div", {}, h("dt", {}, term), h("dd", {}, value, h("small", {}, more)));
  return h("dl", { class: "big card" },
    cell("Right answers", numbers.percent(result.clean_accuracy), `95%: ${interval(result.clean_accuracy_interval)}; mean of the classes ${numbers.percent(result.balanced_accuracy)}`),
    cell("A constant answer", numbers.percent(result.majority_share), `right so often, at every size: always “${result.majority_class ?? "–"}”`),
    cell("Mean certified radius", numbers.down(result.average_certified_radius, 4), `${numbers.norm(result.norm)}, 0 where wrong`),
    cell("Inputs", numbers.count(result.samples), `${numbers.count(result.attacked_samples)} attacked`),
    cell("Radii", result.tightened ? "tightened" : "usual", `median of right answers ${numbers.down(result.certified_radius_quantiles["0.5"], 4)}`));
}

/**
 * Certified accuracy below, attacked accuracy above, and what a constant answer has, of one evaluation or several in one
 * norm. Between two sizes the certified share is at least that of the larger, the attacked one at most that of the
 * smaller: so the steps go. The report of `lipmodel evaluate` draws the same numbers.
 * @param {{name: string, result: object}[]} evaluations
 */
export function accuracyFigure(evaluations) {
  const [{ result: first }] = evaluations;
  const single = evaluations.length === 1;
  const columns = single ? ["Certified", "95% interval", "Certified, of those attacked", "After attacks", "95% interval"]
    : evaluations.flatMap(({ name }) => [`Certified, ${name}`, `After attacks, ${name}`]);
  const cells = ({ result }, epsilon) => {
    const [certified, withstood] = [[result.certified_accuracy, result.certified_accuracy_intervals], [result.attacked_accuracy, result.attacked_accuracy_intervals]]
      .map(([shares, intervals]) => [numbers.percent(shares[epsilon]), interval(intervals[epsilon])]);
    return single ? [...certified, numbers.percent(sampleOf(result)?.certified_accuracy[epsilon]), ...withstood] : [certified[0], withstood[0]];
  };
  const constant = ({ result }) => {
    const share = numbers.percent(result.majority_share);
    return single ? [share, "–", share, share, "–"] : [share, share];
  };
  return figure({
    title: `Certified and attacked accuracy, ${numbers.norm(first.norm)}`, name: "accuracy", height: "tall",
    alt: evaluations.map(({ name, result }) => `${name}: ${numbers.percent(result.clean_accuracy)} right without a change, a constant answer ${numbers.percent(result.majority_share)}; `
      + sizesOf(result).map((epsilon) => [epsilon, result.certified_accuracy[epsilon]]).map(([epsilon, share]) => `at ${epsilon} ${numbers.percent(share)} certified`
        + (result.attacked_samples ? `, ${numbers.percent(result.attacked_accuracy[epsilon])} after attacks` : "")).join("; ")).join(". "),
    columns: ["Size of change", ...columns.map((name) => ({ name, numeric: true }))],
    rows: [
      ...[...new Set(evaluations.flatMap(({ result }) => sizesOf(result)))].sort((a, b) => a - b)
        .map((epsilon) => [epsilon, ...evaluations.flatMap((one) => cells(one, epsilon))]),
      ["any, by a constant answer", ...evaluations.flatMap(constant)],
    ],
    build: (colours) => ({
      data: evaluations.flatMap(({ name, result }, index) => traces(result, single ? "" : `, ${name}`, index ? "dash" : "solid", single, colours)),
      layout: {
        xaxis: { title: `size of change (${numbers.norm(first.norm)})`, rangemode: "tozero" },
        yaxis: { title: "share of inputs", range: [0, 1.02], tickformat: ".0%" }, hovermode: "closest",
      },
    }),
  });
}

/** The lines of one evaluation, all to the same end; the area between those of the inputs attacked is filled. */
function traces(result, label, dash, fills, colours) {
  const { curve, majority_share: constant } = result;
  const sample = sampleOf(result);
  const [last, end] = [curve.epsilon.at(-1), (sample ?? result).curve.epsilon.at(-1)];
  const further = end > last ? [[end], [0]] : [[], []]; // beyond the largest radius nothing is certified
  const line = (x, y, name, style, more = {}) => ({ type: "scatter", mode: "lines", x, y, name: name + label, line: style, ...more });
  const certified = (x, y, name, style) => line(x, y, name, { color: colours.certified, shape: "vh", ...style }, { hovertemplate: "%{y:.1%} certified at %{x:.4g}<extra></extra>" });
  return [
    certified([...curve.epsilon, ...further[0]], [...curve.certified_accuracy, ...further[1]], "certified", { width: 2.5, dash }),
    sample && sample.samples < result.samples && certified(sample.curve.epsilon, sample.curve.certified_accuracy, "certified, of those attacked", { width: 1.5, dash: "dot" }),
    sample && line(sample.curve.epsilon, sample.curve.attacked_accuracy, "after attacks", { color: colours.observed, width: 2, dash, shape: "hv" },
      { hovertemplate: "%{y:.1%} after attacks at %{x:.4g}<extra></extra>", ...(fills ? { fill: "tonexty", fillcolor: `${colours.muted}26` } : {}) }),
    constant !== undefined && line([0, end], [constant, constant], "a constant answer", { color: colours.muted, width: 1.5, dash: "dashdot" },
      { hovertemplate: "%{y:.1%} by a constant answer, at every size<extra></extra>" }),
  ].filter(Boolean);
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
