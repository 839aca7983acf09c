// One model: what is proved of it, beside what its file claims.

import { get, modelPath, remove, request } from "../api.js";
import { badge, copyButton, digest, facts, field, fill, h, heading, notice, problem, section, select, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { PATHS, doneOf, jobAddress } from "./job.js";
import { uploadZone } from "./upload.js";

const MOST_PAIRS = 12;
const NORMS = ["1", "2", "inf"];

/** A policy in words. */
export function policyText({ norm, epsilon, action }) {
  if (epsilon === null) return "every answer is given";
  const what = { flag: "is flagged", abstain: "gets no label", reject: "is rejected" }[action];
  return `what is certified below ${numbers.near(epsilon)} in ${numbers.norm(norm)} ${what}`;
}

/** The address of a model's page, or of one of its versions'. */
export function modelAddress(name, version = null) {
  return `#/models/${encodeURIComponent(name)}${version === null ? "" : `?version=${encodeURIComponent(version)}`}`;
}

export async function show(container, { name, query }) {
  const version = query.get("version");
  const model = await get(modelPath(name, version));
  const again = () => show(container, { name, query });
  if (model.status !== "served") {
    fill(container, heading(name, "This model is not served."),
      notice("bad", model.status === "checking" ? "It is being checked" : "It is refused", h("p", {}, model.reason),
        h("p", { class: "hint" }, "Only what is understood operator by operator can be certified, so nothing is answered in its name.")),
      versions(model, null, again), uploadZone([], name));
    return;
  }
  fill(container,
    heading(name, lead(model),
      h("a", { class: "button primary", href: `#/try/${encodeURIComponent(name)}${version ? `?version=${encodeURIComponent(version)}` : ""}` }, "Try it"),
      h("a", { class: "button", href: `#/audits?model=${encodeURIComponent(name)}` }, "Audit it")),
    model.fault && notice("warn", "Something is wrong with its files as they are now", h("p", {}, model.fault),
      h("p", { class: "hint" }, "What was read before goes on being served.")),
    h("div", { class: "columns" }, proved(model), claimed(model)),
    pairs(model),
    h("div", { class: "columns" }, file(model), served(model)),
    versions(model, version, again),
    uploadZone([], name));
}

function lead({ input_shape, input_size, classes, version, versions: all }) {
  const shape = input_shape.length > 1 ? `${input_shape.join(" × ")} numbers` : `${input_size} number${input_size === 1 ? "" : "s"}`;
  return `${shape} in, ${classes.length} classes out. Version ${version}${all.length > 1 ? ` of ${all.length}` : ""}.`;
}

// --- proved and claimed

function proved({ bounds, default_norm }) {
  const rows = NORMS.map((norm) => [
    h("span", {}, numbers.norm(norm), norm === default_norm ? [" ", badge("its own", "accent")] : null),
    numbers.up(bounds[norm].global), numbers.up(largest(bounds[norm].per_pair))]);
  return h("section", { class: "card", "aria-labelledby": "proved" },
    h("h2", { id: "proved" }, "Proved"),
    h("p", { class: "hint" }, "From the weights in the file alone, rounded upwards: per unit that the input moves, no score moves more than this, ",
      "and no score less another more than that."),
    table("Proved Lipschitz constants", ["Norm of the input", { name: "One score", numeric: true }, { name: "Two scores", numeric: true }],
      rows, { hideCaption: true }));
}

const largest = (matrix) => Math.max(...matrix.map((row) => Math.max(...row)));

/** The constant that a file claims, and whether it is proved: of all claims the only one that is checked. */
export const constantClaimed = ({ norm, lipschitz, proved: holds }) => h("span", {}, `${numbers.near(lipschitz)} in ${norm ? numbers.norm(norm) : "no norm that it names"} `,
  badge(holds ? "proved" : "not proved", holds ? "good" : "bad"));

function claimed({ claim, bounds, ignored_claims, input_box, record, sha256 }) {
  const results = h("div", {}, resultsClaimed(record.held_out ?? {}));
  measuredHere(sha256).then((found) => found && fill(results, found), () => {}); // to this key jobs may not be shown
  return h("section", { class: "card", "aria-labelledby": "claimed" },
    h("h2", { id: "claimed" }, "Claimed"),
    h("p", { class: "hint" }, "What the file says of itself. It is shown, and never used in a certificate."),
    facts([
      claim ? ["Constant", constantClaimed(claim), claim.norm ? ` (the bound: ${numbers.up(bounds[claim.norm].global, 9)})` : ""] : ["Constant", "none"],
    ]),
    results,
    unchecked("About its data", facts([
      input_box && ["Coordinates in the data", `${numbers.near(input_box[0])} to ${numbers.near(input_box[1])}`],
      record.units && ["Units of the input", String(record.units)],
      record.recipe?.name && ["Recipe", String(record.recipe.name)],
      record.data_sha256 && ["Training data", digest(String(record.data_sha256))],
    ])),
    ignored_claims.length ? notice("warn", "Not understood, and passed over", h("ul", {}, ignored_claims.map((line) => h("li", {}, line)))) : null);
}

/** Facts that nothing vouches for but the file; none where there are none. */
const unchecked = (title, list) => (list.children.length ? [h("h3", {}, title, " ", badge("not checked", "warn")), list] : null);

function resultsClaimed(held) {
  return unchecked("About its results", facts([
    held.clean_accuracy !== undefined && ["Right on held-out data", numbers.percent(held.clean_accuracy)],
    ...Object.entries(held.certified_accuracy ?? {}).sort(([a], [b]) => a - b).map(([epsilon, share]) =>
      [`Certified at ${epsilon} in ${numbers.norm(held.norm)}`, numbers.percent(share)]),
    held.average_certified_radius !== undefined && ["Mean certified radius", numbers.down(Number(held.average_certified_radius), 4)],
    held.samples !== undefined && ["Held-out samples", numbers.count(Number(held.samples))],
  ]));
}

/** What the service's own last evaluation of that very file found, in place of what the file claims; null without one. */
async function measuredHere(sha256) {
  const [last] = await doneOf("evaluation", sha256, 1);
  if (!last) return null;
  const { result } = await get(`${PATHS.evaluation}/${encodeURIComponent(last.id)}`);
  return [h("h3", {}, "Results ", badge("measured here", "accent")), facts([
    ["Right answers", numbers.percent(result.clean_accuracy)],
    result.majority_share !== undefined && ["A constant answer", numbers.percent(result.majority_share)],
    ["Mean certified radius", `${numbers.down(result.average_certified_radius, 4)} in ${numbers.norm(result.norm)}`],
    ["Inputs", numbers.count(result.samples)],
  ]), h("p", {}, h("a", { href: jobAddress(last) }, "The last evaluation"), " by this service stands in place of what the file says of its results.")];
}

/** Constants of one score less another: what sets each radius. */
function pairs({ bounds, classes, default_norm }) {
  if (classes.length < 3) return null;
  const body = h("div", {});
  const chosen = select(NORMS.map((norm) => [norm, numbers.norm(norm)]), default_norm, { onchange: () => draw() });
  const few = classes.slice(0, MOST_PAIRS);
  const draw = () => {
    const matrix = bounds[chosen.value].per_pair;
    fill(body, table(`How fast one score may move against another, ${numbers.norm(chosen.value)}`,
      ["Class", ...few.map((name) => ({ name, numeric: true }))],
      few.map((name, i) => [name, ...few.map((_, j) => (i === j ? h("span", { class: "hint" }, "–")
        : numbers.up(matrix[i][j], 4)))])));
  };
  draw();
  return section("Class against class", h("p", { class: "hint" }, "A radius is a lead of scores over one of these constants: ",
    "classes that the network keeps apart more slowly certify further."),
  h("div", { class: "card" }, field("Norm", chosen), body,
    classes.length > MOST_PAIRS && h("p", { class: "hint" }, `The first ${MOST_PAIRS} of ${classes.length} classes; the API gives all of them.`)));
}

// --- the file and how it is served

function file({ sha256, operators, dtype, input_shape, classes }) {
  const total = Object.values(operators).reduce((sum, number) => sum + number, 0);
  return h("section", { class: "card", "aria-labelledby": "file" },
    h("h2", { id: "file" }, "The file"),
    facts([
      ["SHA-256", digest(sha256)],
      ["Weights", dtype],
      ["Input", input_shape.join(" × ")],
      ["Classes", classes.length > 6 ? `${classes.slice(0, 6).join(", ")} … (${classes.length})` : classes.join(", ")],
    ]),
    h("h3", {}, `${total} operators, all of them understood`),
    h("p", { class: "row" }, Object.entries(operators).map(([name, number]) => badge(`${name} × ${number}`))));
}

function served({ name, policy, execution }) {
  const counters = h("div", {}, h("p", { class: "hint" }, "Counting …"));
  countServed(name).then((found) => fill(counters, found), () => fill(counters, h("p", { class: "hint" }, "What was served is not shown to this key.")));
  return h("section", { class: "card", "aria-labelledby": "served" },
    h("h2", { id: "served" }, "How it is served"),
    facts([
      ["Policy", policyText(policy)],
      ["Computed in", execution],
      ["Route", h("code", {}, `POST ${modelPath(name)}/predict`), " ", copyButton(`${location.origin}${modelPath(name)}/predict`, "Copy the address")],
    ]),
    counters);
}

/** What the service has answered in the model's name since it started, of /metrics. */
async function countServed(name) {
  const found = { certified_radius: new Map(), abstentions: 0 };
  const text = await get("/metrics");
  for (const line of text.split("\n")) {
    const match = /^lipserve_(\w+)\{(.*)\} (\S+)$/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...match[2].matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value]));
    if (labels.model !== name) continue;
    if (match[1] === "abstentions_total") found.abstentions = Number(match[3]);
    for (const part of ["count", "sum"]) {
      if (match[1] === `certified_radius_${part}`) {
        const of = found.certified_radius.get(labels.norm) ?? { count: 0, sum: 0 };
        of[part] += Number(match[3]);
        found.certified_radius.set(labels.norm, of);
      }
    }
  }
  const answered = [...found.certified_radius].filter(([, { count }]) => count);
  if (!answered.length) return h("p", { class: "hint" }, "It has answered nothing since the service started.");
  return [h("h3", {}, "Answered since the service started"), facts([
    ...answered.map(([norm, { count, sum }]) => [`In ${numbers.norm(norm)}`, `${numbers.count(count)}, mean radius ${numbers.down(sum / count, 4)}`]),
    ["Labels withheld by the policy", numbers.count(found.abstentions)],
  ])];
}

// --- versions

function versions(model, shown, again) {
  const { name, versions: all, labels } = model;
  const said = h("div", { "aria-live": "polite" });
  const act = async (work) => {
    try {
      await work();
      await again();
    } catch (error) {
      fill(said, problem(error));
    }
  };
  const labelsOf = (version) => Object.entries(labels).filter(([, number]) => number === version).map(([label]) => label);
  const rows = [...all].reverse().map(({ version, status, sha256, reason }) => [
    h("span", {}, h("a", { href: modelAddress(name, version) }, version), labelsOf(version).map((label) => [" ", badge(label, "accent")])),
    h("span", {}, badge(status, status === "served" ? "good" : "bad"), reason && h("span", { class: "hint" }, ` ${reason}`)),
    sha256 ? digest(sha256) : "–",
    status === "served" && labels.latest !== version
      ? h("button", {
        type: "button", class: "small", "aria-label": `Let version ${version} answer`,
        onclick: () => act(() => request("PUT", `${modelPath(name)}/labels/latest`, { json: { version: Number(version) } })),
      }, "Let it answer")
      : "",
    all.length > 1 && !labelsOf(version).length
      ? h("button", {
        type: "button", class: "small danger", "aria-label": `Remove version ${version}`,
        onclick: () => confirm(`Remove version ${version} of ${name}? Its file is deleted.`) && act(() => remove(modelPath(name, version))),
      }, "Remove")
      : "",
  ]);
  const compare = all.filter(({ status }) => status === "served").length > 1
    && h("p", {}, h("a", { href: `#/compare?a=${encodeURIComponent(name)}@${all[0].version}&b=${encodeURIComponent(name)}@${all.at(-1).version}` }, "Compare versions"));
  return section("Versions", shown && h("p", {}, h("a", { href: modelAddress(name) }, "The version that answers now")),
    h("div", { class: "card" }, table(`Versions of ${name}`, ["Version", "State", "Digest", "Answers", "File"], rows, { hideCaption: true }), compare, said));
}
