// One audit: observations against the certified bounds.

import { badge, copyButton, fill, h, notice, section, select, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { figure } from "../plots.js";
import { followed, warnings } from "./job.js";

export async function show(container, { id }) {
  const figures = [];
  const stop = await followed(container, "audit", id, (job) => {
    const { result } = job;
    return [verdict(result), ...warnings(result), keyFigures(result), h("div", { class: "columns" }, gradients(result, figures), attacks(result, figures)),
      functionals(result), witnesses(result), counterexamples(result)];
  });
  return () => { stop(); figures.forEach((drawn) => drawn.remove()); };
}

/** Return the number of inputs with an adversarial example found beyond the certified radius, and none within. */
const beyondCount = ({ found, inside }) => found - inside.length;

/** Return the name of an audited function: a score, or the difference of two. */
const nameOf = ([first, second]) => (second === null ? first : `${first} − ${second}`);

function verdict({ verdict: outcome, reasons, note }) {
  if (outcome === "refuted") {
    return notice("bad", "Refuted: an observation contradicts a claim or a certificate",
      h("ul", {}, reasons.map((reason) => h("li", {}, reason))), h("p", { class: "hint" }, note));
  }
  return notice("good", "Consistent: no observation contradicts the certificates", h("p", { class: "hint" }, note));
}

function keyFigures({ bound, claim, observed, observed_slope, tightness, flips, points, norm, attack }) {
  const cell = (term, value, more) => h("div", {}, h("dt", {}, term), h("dd", {}, value, h("small", {}, more)));
  return h("dl", { class: "big card" },
    cell("Proved bound", numbers.up(bound, 5), claim === null ? numbers.norm(norm) : `${numbers.norm(norm)}, claimed: ${numbers.near(claim)}`),
    cell("Largest gradient norm", numbers.near(observed, 5), `largest slope ${numbers.down(observed_slope, 5)}`),
    cell("Tightness", numbers.percent(tightness, 2), "observed / bound"),
    cell("Labels changed within the radius", `${numbers.count(flips)} of ${numbers.count(points.attacked)}`,
      `beyond the radius: ${numbers.count(beyondCount(attack))} of ${numbers.count(attack.inputs)}`));
}

// --- gradients

function gradients({ histogram, per_pair, bound }, figures) {
  const holder = h("div", {});
  const choices = [["all", "all functions"], ...per_pair.map(({ classes }, index) => [String(index), nameOf(classes)])];
  const draw = (which) => {
    const counts = which === "all" ? histogram.counts : per_pair[which].histogram;
    const total = counts.reduce((sum, number) => sum + number, 0) || 1;
    const { edges } = histogram;
    const highest = counts.findLastIndex((number) => number > 0);
    figures.splice(0, figures.length, ...figures.filter((drawn) => drawn.name !== "gradients" || void drawn.remove()));
    const drawn = figure({
      title: "Gradient norms against the bound", name: "gradients",
      alt: `Histogram of observed gradient norms as a share of the bound. The highest non-empty bin ends at ${numbers.near(edges[highest + 1])}; none is above 1.`,
      columns: ["Gradient norm / bound", { name: "Points", numeric: true }, { name: "Share", numeric: true }],
      rows: counts.map((number, index) => [`${numbers.near(edges[index])} – ${numbers.near(edges[index + 1])}`, numbers.count(number), numbers.percent(number / total, 2)]),
      build: (colours) => ({
        data: [{
          type: "bar", x: counts.map((_, index) => (edges[index] + edges[index + 1]) / 2), y: counts.map((number) => number / total),
          width: edges[1] - edges[0], marker: { color: colours.observed, line: { width: 1, color: colours.paper } },
          hovertemplate: "%{x:.3f} of the bound: %{y:.2%}<extra></extra>",
        }],
        layout: {
          showlegend: false, bargap: 0,
          xaxis: { title: "gradient norm / bound", range: [0, 1.08], tickformat: ".1f" },
          yaxis: { title: "share of points", tickformat: ".0%" },
          shapes: [{ type: "line", x0: 1, x1: 1, yref: "paper", y0: 0, y1: 1, line: { color: colours.certified, width: 2.5 } }],
          annotations: [{ x: 1, yref: "paper", y: 1, yanchor: "bottom", showarrow: false, text: "the bound", font: { color: colours.certified } }],
          margin: { l: 48, r: 16, t: 26, b: 44 },
        },
      }),
    });
    figures.push(Object.assign(drawn, { name: "gradients" }));
    fill(holder, drawn.element);
  };
  draw("all");
  const chosen = select(choices, "all", { "aria-label": "Function shown in the histogram", onchange: () => draw(chosen.value) });
  return h("section", { "aria-label": "Gradients" }, h("h2", {}, "Gradients"),
    h("p", { class: "hint" }, `A gradient norm above the bound (${numbers.up(bound, 5)} for one score) would refute the bound. Function: `), chosen, holder);
}

// --- attacks

function attacks({ attack, norm }, figures) {
  const all = attack.certified_radius.map((radius, index) => ({ radius, distance: attack.observed_distance[index] }));
  const found = all.filter(({ distance }) => distance !== null);
  if (!found.length) return h("section", { "aria-label": "Attacks" }, h("h2", {}, "Attacks"), h("p", {}, `No adversarial example was found for the ${all.length} attacked inputs.`));
  const end = 1.05 * Math.max(...found.map(({ distance }) => distance));
  const drawn = figure({
    title: "Nearest adversarial examples found", name: "attacks",
    alt: `Scatter plot of ${found.length} inputs: distance to the nearest adversarial example found against certified radius. ${attack.inside.length ? `${attack.inside.length} points lie below the diagonal.` : "All points lie above the diagonal."}`,
    columns: ["Input", { name: "Certified radius", numeric: true }, { name: "Distance", numeric: true }, { name: "Radius / distance", numeric: true }],
    rows: all.map(({ radius, distance }, index) => [String(index + 1), numbers.down(radius), numbers.up(distance), numbers.percentDown(attack.ratio[index])]),
    build: (colours) => ({
      data: [
        { type: "scatter", mode: "lines", x: [0, end], y: [0, end], fill: "tozeroy", fillcolor: `${colours.certified}22`, line: { color: colours.certified, width: 1.5 }, hoverinfo: "skip", name: "proved: none below" },
        {
          type: "scatter", mode: "markers", x: found.map(({ radius }) => radius), y: found.map(({ distance }) => distance), name: "found by attack",
          marker: { color: found.map(({ radius, distance }) => (distance <= radius ? colours.bad : colours.observed)), size: 7, opacity: 0.75 },
          text: found.map(({ radius, distance }) => `radius ${numbers.down(radius)}, distance ${numbers.up(distance)}`), hovertemplate: "%{text}<extra></extra>",
        },
      ],
      layout: {
        xaxis: { title: `certified radius (${numbers.norm(norm)})`, rangemode: "tozero" },
        yaxis: { title: "distance found", range: [0, end] },
      },
    }),
  });
  figures.push(drawn);
  const median = attack.ratio_quantiles["0.5"];
  return h("section", { "aria-label": "Attacks" }, h("h2", {}, "Attacks"),
    h("p", { class: "hint" }, `Attacks changed the label of ${numbers.count(attack.inside.length)} inputs within the certified radius, and of ${numbers.count(beyondCount(attack))} of ${numbers.count(attack.inputs)} beyond it, `
      + "which no certificate excludes. On the diagonal the radius is exact",
      median === undefined ? "." : `; the median ratio of radius to distance is ${numbers.percentDown(median)}.`), drawn.element);
}

// --- details

/** Format an extreme-value estimate, capped at the proved bound. */
function estimate({ extreme_value_estimate: value, extreme_value_capped: capped, bound }) {
  if (value === null) return "–";
  return capped || value > bound ? `${numbers.near(Math.min(value, bound), 5)}, capped at the bound` : numbers.near(value, 5);
}

function functionals({ per_pair }) {
  const rows = per_pair.map((pair) => [nameOf(pair.classes), numbers.up(pair.bound, 5), numbers.near(pair.observed, 5), numbers.down(pair.observed_slope, 5),
    numbers.percent(pair.tightness), numbers.percent(pair.full_gradient_share), estimate(pair)]);
  const list = table("Each score, and each difference of two scores", ["Function", ...["Bound", "Largest gradient norm", "Largest slope", "Tightness", "Points at the bound", "Estimate (CLEVER), not proved"]
    .map((name) => ({ name, numeric: true }))], rows);
  return section("By function", rows.length > 15 ? h("details", {}, h("summary", {}, `${rows.length} functions`), h("div", { class: "card" }, list)) : h("div", { class: "card" }, list));
}

function witnesses({ witnesses: all }) {
  return section("Witnesses", h("p", { class: "hint" }, "Pairs of inputs with slopes close to the bound. Between the two inputs the function changes by at least the slope times their distance, which any runtime can check."),
    h("div", { class: "card" }, table("Witnesses", ["Function", "Found on", { name: "Gradient norm", numeric: true }, { name: "Bound", numeric: true }, { name: "Slope", numeric: true }, "Inputs"],
      all.map((witness) => [nameOf(witness.classes), badge(witness.found_on), numbers.near(witness.observed, 6), numbers.up(witness.bound, 6), numbers.down(witness.observed_slope, 6),
        inputs([["first", witness.input], ["second", witness.second_input]])]), { hideCaption: true })));
}

function counterexamples({ attack }) {
  if (!attack.inside.length) return null;
  return section("Counterexamples", h("div", { class: "card" }, table("Labels changed within the certified radius",
    ["Label", "New label", { name: "Certified radius", numeric: true }, { name: "Distance", numeric: true }, "Inputs"],
    attack.inside.map((found) => [found.label, found.adversarial_label, numbers.down(found.certified_radius), numbers.up(found.observed_distance), inputs([["original", found.input], ["adversarial", found.adversarial]])]))));
}

/** Show inputs, abbreviated if long, with buttons that copy them. */
const inputs = (named) => h("span", { class: "row" }, named.map(([name, values]) => {
  const text = JSON.stringify(values);
  return h("span", { class: "digest" }, text.length <= 48 ? h("code", {}, text) : null, copyButton(text, `Copy the ${name} input`, `Copy ${name}`));
}));
