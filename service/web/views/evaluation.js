// One evaluation: certified accuracy and accuracy under attack on labelled data.

import { h, section, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { figure } from "../plots.js";
import { followed, warnings } from "./job.js";

export async function show(container, { id }) {
  let drawn = null;
  const stop = await followed(container, "evaluation", id, (job) => {
    const { result } = job;
    drawn = accuracyFigure([{ name: job.model.name, result }]);
    return [...warnings(result), keyFigures(result), section("Accuracy by perturbation size", h("p", { class: "hint" }, rangeText(result)), drawn.element),
      h("div", { class: "columns" }, quantiles(result), classes(result))];
  });
  return () => { stop(); drawn?.remove(); };
}

/** Return the figures of the attacked inputs; null without attacks. */
const sampleOf = (result) => result.attacked_sample ?? null;

function rangeText(result) {
  const sample = sampleOf(result);
  if (!sample) return "The curve is a proved lower bound. Without attacks there is no upper bound: start another evaluation with inputs to attack.";
  const which = sample.samples < result.samples
    ? `${numbers.count(sample.samples)} of ${numbers.count(result.samples)} inputs were attacked, a stratified random sample.`
    : "All inputs were attacked.";
  return `${which} For these inputs the true robust accuracy lies between certified accuracy (proved) and accuracy under attack: within the grey area.`;
}

const interval = (ends) => (ends ? `${numbers.percent(ends[0])} – ${numbers.percent(ends[1])}` : "–");
/** Return the perturbation sizes of a result in ascending order, as its keys. */
const sizesOf = (result) => Object.keys(result.certified_accuracy).sort((a, b) => a - b);

function keyFigures(result) {
  const cell = (term, value, more) => h("div", {}, h("dt", {}, term), h("dd", {}, value, h("small", {}, more)));
  return h("dl", { class: "big card" },
    cell("Clean accuracy", numbers.percent(result.clean_accuracy), `95% interval ${interval(result.clean_accuracy_interval)}; balanced accuracy ${numbers.percent(result.balanced_accuracy)}`),
    cell("Majority-class baseline", numbers.percent(result.majority_share), `always “${result.majority_class ?? "–"}”; the same at every size`),
    cell("Mean certified radius", numbers.down(result.average_certified_radius, 4), `${numbers.norm(result.norm)}; 0 for misclassified inputs`),
    cell("Inputs", numbers.count(result.samples), `${numbers.count(result.attacked_samples)} attacked`),
    cell("Method", result.tightened ? "tightened" : "standard", `median radius of correct predictions ${numbers.down(result.certified_radius_quantiles["0.5"], 4)}`));
}

/**
 * Plot certified accuracy, accuracy under attack and the majority-class baseline of one or more evaluations in one norm.
 * Between two sizes certified accuracy is at least its value at the larger, and accuracy under attack at most its value at
 * the smaller: hence the directions of the steps. The report of `lipmodel evaluate` draws the same numbers.
 * @param {{name: string, result: object}[]} evaluations
 */
export function accuracyFigure(evaluations) {
  const [{ result: first }] = evaluations;
  const single = evaluations.length === 1;
  const columns = single ? ["Certified accuracy", "95% interval", "Certified, attacked inputs", "Under attack", "95% interval"]
    : evaluations.flatMap(({ name }) => [`Certified, ${name}`, `Under attack, ${name}`]);
  const cells = ({ result }, epsilon) => {
    const certified = numbers.percentDown(result.certified_accuracy[epsilon]);
    const attacked = numbers.percent(result.attacked_accuracy[epsilon]);
    return single ? [certified, interval(result.certified_accuracy_intervals[epsilon]), numbers.percentDown(sampleOf(result)?.certified_accuracy[epsilon]),
      attacked, interval(result.attacked_accuracy_intervals[epsilon])] : [certified, attacked];
  };
  const baseline = ({ result }) => {
    const share = numbers.percent(result.majority_share);
    return single ? [share, "–", share, share, "–"] : [share, share];
  };
  return figure({
    title: `Certified accuracy and accuracy under attack, ${numbers.norm(first.norm)}`, name: "accuracy", height: "tall",
    alt: evaluations.map(({ name, result }) => `${name}: clean accuracy ${numbers.percent(result.clean_accuracy)}, majority-class baseline ${numbers.percent(result.majority_share)}; `
      + sizesOf(result).map((epsilon) => [epsilon, result.certified_accuracy[epsilon]]).map(([epsilon, share]) => `at ${epsilon} ${numbers.percentDown(share)} certified`
        + (result.attacked_samples ? `, ${numbers.percent(result.attacked_accuracy[epsilon])} under attack` : "")).join("; ")).join(". "),
    columns: ["Perturbation size", ...columns.map((name) => ({ name, numeric: true }))],
    rows: [
      ...[...new Set(evaluations.flatMap(({ result }) => sizesOf(result)))].sort((a, b) => a - b)
        .map((epsilon) => [epsilon, ...evaluations.flatMap((one) => cells(one, epsilon))]),
      ["any: majority-class baseline", ...evaluations.flatMap(baseline)],
    ],
    build: (colours) => ({
      data: evaluations.flatMap(({ name, result }, index) => traces(result, single ? "" : `, ${name}`, index ? "dash" : "solid", single, colours)),
      layout: {
        xaxis: { title: `perturbation size (${numbers.norm(first.norm)})`, rangemode: "tozero" },
        yaxis: { title: "accuracy", range: [0, 1.02], tickformat: ".0%" }, hovermode: "closest",
      },
    }),
  });
}

/** Return the traces of one evaluation, all to the same right end; the area between those of the attacked inputs is filled. */
function traces(result, label, dash, fills, colours) {
  const { curve, majority_share: baseline } = result;
  const sample = sampleOf(result);
  const [last, end] = [curve.epsilon.at(-1), (sample ?? result).curve.epsilon.at(-1)];
  const further = end > last ? [[end], [0]] : [[], []]; // beyond the largest radius nothing is certified
  const line = (x, y, name, style, more = {}) => ({ type: "scatter", mode: "lines", x, y, name: name + label, line: style, ...more });
  const certified = (x, y, name, style) => line(x, y, name, { color: colours.certified, shape: "vh", ...style },
    { text: y.map((share) => numbers.percentDown(share)), hovertemplate: "%{text} certified at %{x:.4g}<extra></extra>" });
  return [
    certified([...curve.epsilon, ...further[0]], [...curve.certified_accuracy, ...further[1]], "certified", { width: 2.5, dash }),
    sample && sample.samples < result.samples && certified(sample.curve.epsilon, sample.curve.certified_accuracy, "certified, attacked inputs", { width: 1.5, dash: "dot" }),
    sample && line(sample.curve.epsilon, sample.curve.attacked_accuracy, "under attack", { color: colours.observed, width: 2, dash, shape: "hv" },
      { hovertemplate: "%{y:.1%} under attack at %{x:.4g}<extra></extra>", ...(fills ? { fill: "tonexty", fillcolor: `${colours.muted}26` } : {}) }),
    baseline !== undefined && line([0, end], [baseline, baseline], "majority-class baseline", { color: colours.muted, width: 1.5, dash: "dashdot" },
      { hovertemplate: "%{y:.1%}, majority-class baseline<extra></extra>" }),
  ].filter(Boolean);
}

function quantiles({ certified_radius_quantiles: all, norm }) {
  return section("Certified radii of correct predictions", h("div", { class: "card" }, table(`Quantiles of the certified radius, ${numbers.norm(norm)}`,
    ["Quantile", { name: "Certified radius", numeric: true }], Object.entries(all).map(([share, radius]) => [numbers.percent(Number(share), 0), numbers.down(radius, 5)]))));
}

function classes({ per_class: all }) {
  return section("By class", h("div", { class: "card" }, table("Results by true class",
    ["Class", ...["Inputs", "Clean accuracy", "Mean certified radius"].map((name) => ({ name, numeric: true }))],
    Object.entries(all).map(([name, one]) => [name, numbers.count(one.samples), numbers.percent(one.clean_accuracy), numbers.down(one.average_certified_radius, 4)]), { hideCaption: true })));
}
