// Two models, or two versions of a model, side by side.

import { get, modelPath } from "../api.js";
import { digest, empty, field, fill, h, heading, loading, problem, section, select, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { accuracyFigure } from "./evaluation.js";
import { PATHS, doneOf, jobAddress } from "./job.js";
import { constantClaimed, modelAddress } from "./model.js";

export async function show(container, { query }) {
  const { models } = await get("/v1/models");
  const choices = models.flatMap(({ name, versions }) => versions.filter(({ status }) => status === "served")
    .map(({ version }) => [`${name}@${version}`, versions.length > 1 ? `${name}, version ${version}` : name]));
  if (choices.length < 2) {
    fill(container, heading("Compare"), empty("Only one model version is served", h("p", {}, "Add another model or version to compare.")));
    return undefined;
  }
  const values = choices.map(([value]) => value);
  const wanted = (key, other) => (values.includes(query.get(key)) ? query.get(key) : values[other]);
  const body = h("div", { class: "view" });
  const [first, second] = [select(choices, wanted("a", 0)), select(choices, wanted("b", 1))];
  let drawn = [];
  const clear = () => { drawn.forEach((figure) => figure.remove()); drawn = []; };
  const draw = async () => {
    clear();
    history.replaceState(null, "", `#/compare?a=${encodeURIComponent(first.value)}&b=${encodeURIComponent(second.value)}`);
    fill(body, loading());
    try {
      const sides = await Promise.all([first.value, second.value].map(sideOf));
      fill(body, proofs(sides), await measured(sides, drawn), claims(sides));
    } catch (error) {
      fill(body, problem(error, draw));
    }
  };
  first.addEventListener("change", draw);
  second.addEventListener("change", draw);
  fill(container, heading("Compare", "Proved bounds, and results of the last audits and evaluations."),
    h("div", { class: "fields" }, field("First model", first), field("Second model", second)), body);
  await draw();
  return clear;
}

/** Load a model version, and the finished jobs for its file. */
async function sideOf(value) {
  const [, name, version] = /^(.*)@(.*)$/.exec(value);
  const model = await get(modelPath(name, version));
  const [audits, evaluations] = await Promise.all(Object.keys(PATHS).map((kind) => doneOf(kind, model.sha256)));
  return { title: model.versions.length > 1 ? `${name} ${version}` : name, model, audits, evaluations };
}

function proofs(sides) {
  const row = (name, of) => [name, ...sides.map((side) => of(side.model))];
  return section("Proved", h("div", { class: "card" }, table("Proved bounds", ["", ...sides.map(({ title }) => title)], [
    row("Model", ({ name, version }) => h("a", { href: modelAddress(name, version) }, `${name}, version ${version}`)),
    ...["1", "2", "inf"].map((norm) => row(`Bound of a score, ${numbers.norm(norm)}`, ({ bounds }) => numbers.up(bounds[norm].global))),
    row("Claimed constant", ({ claim }) => (claim ? constantClaimed(claim) : "none")),
    row("Digest", ({ sha256 }) => digest(sha256)),
    row("Operators", ({ operators }) => String(Object.values(operators).reduce((sum, number) => sum + number, 0))),
  ], { hideCaption: true })));
}

function claims(sides) {
  const row = (name, of) => [name, ...sides.map((side) => of(side.model.record.held_out ?? {}))];
  return section("Claimed, not checked", h("div", { class: "card" }, table("Claims of the files", ["", ...sides.map(({ title }) => title)], [
    row("Clean accuracy, held-out data", ({ clean_accuracy: share }) => numbers.percent(share)),
    row("Mean certified radius, held-out data", ({ average_certified_radius: radius }) => (radius === undefined ? "–" : numbers.down(Number(radius), 4))),
  ], { hideCaption: true })));
}

async function measured(sides, drawn) {
  const [audits, evaluations] = await Promise.all(["audits", "evaluations"].map(async (kind) =>
    Promise.all(sides.map((side) => (side[kind].length ? get(`/v1/${kind}/${side[kind][0].id}`) : null)))));
  const start = (kind, name) => h("a", { href: `#/audits?kind=${kind}&model=${encodeURIComponent(name)}` }, "none yet; start one");
  const row = (title, jobs, kind, of) => [title, ...jobs.map((job, index) => (job ? of(job) : start(kind, sides[index].model.name)))];
  const rows = [
    row("Last audit", audits, "audit", (job) => h("a", { href: jobAddress(job) }, `${job.result.verdict}, ${numbers.norm(job.result.norm)}`)),
    row("Tightness", audits, "audit", (job) => numbers.percent(job.result.tightness, 2)),
    row("Last evaluation", evaluations, "evaluation", (job) => h("a", { href: jobAddress(job) }, `${numbers.count(job.result.samples)} inputs, ${numbers.norm(job.result.norm)}`)),
    row("Clean accuracy", evaluations, "evaluation", (job) => numbers.percent(job.result.clean_accuracy)),
    row("Balanced accuracy", evaluations, "evaluation", (job) => numbers.percent(job.result.balanced_accuracy)),
    row("Majority-class baseline", evaluations, "evaluation", (job) => numbers.percent(job.result.majority_share)),
    row("Mean certified radius", evaluations, "evaluation", (job) => numbers.down(job.result.average_certified_radius, 4)),
  ];
  const shown = evaluations.map((job, index) => job && { name: sides[index].title, result: job.result });
  const norms = new Set(shown.filter(Boolean).map(({ result }) => result.norm));
  if (shown.every(Boolean) && norms.size === 1) drawn.push(accuracyFigure(shown));
  return section("Measured", h("div", { class: "card" }, table("Measured results", ["", ...sides.map(({ title }) => title)], rows, { hideCaption: true })),
    drawn.length ? drawn[0].element : h("p", { class: "hint" }, norms.size > 1 ? "The last evaluations use different norms, so their curves are not plotted together."
      : "The curves are plotted once both have been evaluated."));
}
