// One model: its proved bounds beside the claims of its file.

import { get, modelPath, remove, request } from "../api.js";
import { badge, copyButton, digest, facts, field, fill, h, heading, notice, problem, section, select, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { PATHS, doneOf, jobAddress } from "./job.js";
import { uploadZone } from "./upload.js";

const MAX_PAIRS = 12;
const NORMS = ["1", "2", "inf"];

/** Describe a policy. */
export function policyText({ norm, epsilon, action }) {
  if (epsilon === null) return "none: all labels are returned";
  const effect = { flag: "are flagged", abstain: "have no label", reject: "are rejected" }[action];
  return `predictions certified below ${numbers.near(epsilon)} (${numbers.norm(norm)}) ${effect}`;
}

/** Return the address of the view of a model, or of one of its versions. */
export function modelAddress(name, version = null) {
  return `#/models/${encodeURIComponent(name)}${version === null ? "" : `?version=${encodeURIComponent(version)}`}`;
}

export async function show(container, { name, query }) {
  const version = query.get("version");
  const model = await get(modelPath(name, version));
  const reload = () => show(container, { name, query });
  if (model.status !== "served") {
    fill(container, heading(name, "This model is not served."),
      notice("bad", model.status === "checking" ? "The model is being checked" : "The model was refused", h("p", {}, model.reason),
        h("p", { class: "hint" }, "Only files with supported operators can be certified. Requests to this model fail.")),
      versions(model, null, reload), uploadZone([], name));
    return;
  }
  fill(container,
    heading(name, lead(model),
      h("a", { class: "button primary", href: `#/try/${encodeURIComponent(name)}${version ? `?version=${encodeURIComponent(version)}` : ""}` }, "Try it"),
      h("a", { class: "button", href: `#/audits?model=${encodeURIComponent(name)}` }, "Audit")),
    model.fault && notice("warn", "The current files of this model have a fault", h("p", {}, model.fault),
      h("p", { class: "hint" }, "The last valid version stays in service.")),
    h("div", { class: "columns" }, proved(model), claimed(model)),
    pairs(model),
    h("div", { class: "columns" }, file(model), served(model)),
    versions(model, version, reload),
    uploadZone([], name));
}

function lead({ input_shape, input_size, classes, version, versions: all }) {
  const shape = input_shape.length > 1 ? `${input_shape.join(" × ")} values` : `${input_size} value${input_size === 1 ? "" : "s"}`;
  return `Input: ${shape}. Output: ${classes.length} classes. Version ${version}${all.length > 1 ? ` of ${all.length}` : ""}.`;
}

// --- proved and claimed

function proved({ bounds, default_norm }) {
  const rows = NORMS.map((norm) => [
    h("span", {}, numbers.norm(norm), norm === default_norm ? [" ", badge("default", "accent")] : null),
    numbers.up(bounds[norm].global), numbers.up(largest(bounds[norm].per_pair))]);
  return h("section", { class: "card", "aria-labelledby": "proved" },
    h("h2", { id: "proved" }, "Proved"),
    h("p", { class: "hint" }, "Derived from the weights in the file and rounded up. If the input changes by 1 unit, no score changes by more than the first figure, ",
      "and no difference of two scores by more than the second."),
    table("Proved Lipschitz constants", ["Input norm", { name: "One score", numeric: true }, { name: "Difference of two", numeric: true }],
      rows, { hideCaption: true }));
}

const largest = (matrix) => Math.max(...matrix.map((row) => Math.max(...row)));

/** Show the Lipschitz constant that a file claims, and whether it is proved: the only claim that is checked. */
export const constantClaimed = ({ norm, lipschitz, proved: holds }) => h("span", {}, `${numbers.near(lipschitz)} in ${norm ? numbers.norm(norm) : "an unnamed norm"} `,
  badge(holds ? "proved" : "not proved", holds ? "good" : "bad"));

function claimed({ claim, bounds, ignored_claims, input_box, record, sha256 }) {
  const results = h("div", {}, resultsClaimed(record.held_out ?? {}));
  measuredHere(sha256).then((measured) => measured && fill(results, measured), () => {}); // the API key may lack the scope for jobs
  return h("section", { class: "card", "aria-labelledby": "claimed" },
    h("h2", { id: "claimed" }, "Claimed"),
    h("p", { class: "hint" }, "Statements in the file's metadata. They are shown, and never used in a certificate."),
    facts([
      ["Lipschitz constant", claim ? constantClaimed(claim) : "none", claim?.norm ? ` (proved bound: ${numbers.up(bounds[claim.norm].global, 9)})` : ""],
    ]),
    results,
    unchecked("Data", facts([
      input_box && ["Range of the data", `${numbers.near(input_box[0])} to ${numbers.near(input_box[1])}`],
      record.units && ["Input units", String(record.units)],
      record.recipe?.name && ["Recipe", String(record.recipe.name)],
      record.data_sha256 && ["Training data", digest(String(record.data_sha256))],
    ])),
    ignored_claims.length ? notice("warn", "Ignored claims", h("ul", {}, ignored_claims.map((line) => h("li", {}, line)))) : null);
}

/** Show unverified claims; null if there are none. */
const unchecked = (title, list) => (list.children.length ? [h("h3", {}, title, " ", badge("not checked", "warn")), list] : null);

function resultsClaimed(held) {
  return unchecked("Results", facts([
    held.clean_accuracy !== undefined && ["Clean accuracy, held-out data", numbers.percent(held.clean_accuracy)],
    ...Object.entries(held.certified_accuracy ?? {}).sort(([a], [b]) => a - b).map(([epsilon, share]) =>
      [`Certified accuracy at ${epsilon} (${numbers.norm(held.norm)})`, numbers.percentDown(share)]),
    held.average_certified_radius !== undefined && ["Mean certified radius", numbers.down(Number(held.average_certified_radius), 4)],
    held.samples !== undefined && ["Held-out inputs", numbers.count(Number(held.samples))],
  ]));
}

/** Show the results of this service's last evaluation of the same file, which replace the claims; null if there is none. */
async function measuredHere(sha256) {
  const [last] = await doneOf("evaluation", sha256, 1);
  if (!last) return null;
  const { result } = await get(`${PATHS.evaluation}/${encodeURIComponent(last.id)}`);
  return [h("h3", {}, "Results ", badge("measured here", "accent")), facts([
    ["Clean accuracy", numbers.percent(result.clean_accuracy)],
    result.majority_share !== undefined && ["Majority-class baseline", numbers.percent(result.majority_share)],
    ["Mean certified radius", `${numbers.down(result.average_certified_radius, 4)} (${numbers.norm(result.norm)})`],
    ["Inputs", numbers.count(result.samples)],
  ]), h("p", {}, h("a", { href: jobAddress(last) }, "Last evaluation"), " by this service; its results replace those claimed in the file.")];
}

/** Show the Lipschitz constants of the differences of two scores, which determine the radii. */
function pairs({ bounds, classes, default_norm }) {
  if (classes.length < 3) return null;
  const body = h("div", {});
  const chosen = select(NORMS.map((norm) => [norm, numbers.norm(norm)]), default_norm, { onchange: () => draw() });
  const few = classes.slice(0, MAX_PAIRS);
  const draw = () => {
    const matrix = bounds[chosen.value].per_pair;
    fill(body, table(`Proved Lipschitz constants of score differences, ${numbers.norm(chosen.value)}`,
      ["Class", ...few.map((name) => ({ name, numeric: true }))],
      few.map((name, i) => [name, ...few.map((_, j) => (i === j ? h("span", { class: "hint" }, "–")
        : numbers.up(matrix[i][j], 4)))])));
  };
  draw();
  return section("Pairs of classes", h("p", { class: "hint" }, "A certified radius is a margin between two scores divided by one of these constants: ",
    "the smaller the constant, the larger the radius."),
  h("div", { class: "card" }, field("Norm", chosen), body,
    classes.length > MAX_PAIRS && h("p", { class: "hint" }, `The first ${MAX_PAIRS} of ${classes.length} classes; the API returns all.`)));
}

// --- the file and how it is served

function file({ sha256, operators, dtype, input_shape, classes }) {
  const total = Object.values(operators).reduce((sum, number) => sum + number, 0);
  return h("section", { class: "card", "aria-labelledby": "file" },
    h("h2", { id: "file" }, "File"),
    facts([
      ["SHA-256", digest(sha256)],
      ["Weights", dtype],
      ["Input", input_shape.join(" × ")],
      ["Classes", classes.length > 6 ? `${classes.slice(0, 6).join(", ")} … (${classes.length})` : classes.join(", ")],
    ]),
    h("h3", {}, `${total} operators, all supported`),
    h("p", { class: "row" }, Object.entries(operators).map(([name, number]) => badge(`${name} × ${number}`))));
}

function served({ name, policy, execution }) {
  const counters = h("div", {}, h("p", { class: "hint" }, "Loading …"));
  servedCounts(name).then((counts) => fill(counters, counts), () => fill(counters, h("p", { class: "hint" }, "This API key may not read the metrics.")));
  return h("section", { class: "card", "aria-labelledby": "served" },
    h("h2", { id: "served" }, "Serving"),
    facts([
      ["Policy", policyText(policy)],
      ["Execution", execution],
      ["Endpoint", h("code", {}, `POST ${modelPath(name)}/predict`), " ", copyButton(`${location.origin}${modelPath(name)}/predict`, "Copy URL")],
    ]),
    counters);
}

/** Read from /metrics the predictions of the model since the service started. */
async function servedCounts(name) {
  const counts = { certified_radius: new Map(), abstentions: 0 };
  const text = await get("/metrics");
  for (const line of text.split("\n")) {
    const match = /^lipserve_(\w+)\{(.*)\} (\S+)$/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...match[2].matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value]));
    if (labels.model !== name) continue;
    if (match[1] === "abstentions_total") counts.abstentions = Number(match[3]);
    for (const part of ["count", "sum"]) {
      if (match[1] === `certified_radius_${part}`) {
        const radii = counts.certified_radius.get(labels.norm) ?? { count: 0, sum: 0 };
        radii[part] += Number(match[3]);
        counts.certified_radius.set(labels.norm, radii);
      }
    }
  }
  const predictions = [...counts.certified_radius].filter(([, { count }]) => count);
  if (!predictions.length) return h("p", { class: "hint" }, "No predictions since the service started.");
  return [h("h3", {}, "Predictions since the service started"), facts([
    ...predictions.map(([norm, { count, sum }]) => [numbers.norm(norm), `${numbers.count(count)}, mean radius ${numbers.down(sum / count, 4)}`]),
    ["Labels withheld by the policy", numbers.count(counts.abstentions)],
  ])];
}

// --- versions

function versions(model, shown, reload) {
  const { name, versions: all, labels } = model;
  const feedback = h("div", { "aria-live": "polite" });
  const act = async (change) => {
    try {
      await change();
      await reload();
    } catch (error) {
      fill(feedback, problem(error));
    }
  };
  const labelsOf = (version) => Object.entries(labels).filter(([, number]) => number === version).map(([label]) => label);
  const rows = [...all].reverse().map(({ version, status, sha256, reason }) => [
    h("span", {}, h("a", { href: modelAddress(name, version) }, version), labelsOf(version).map((label) => [" ", badge(label, "accent")])),
    h("span", {}, badge(status, status === "served" ? "good" : "bad"), reason && h("span", { class: "hint" }, ` ${reason}`)),
    sha256 ? digest(sha256) : "–",
    status === "served" && labels.latest !== version
      ? h("button", {
        type: "button", class: "small", "aria-label": `Make version ${version} the default`,
        onclick: () => act(() => request("PUT", `${modelPath(name)}/labels/latest`, { json: { version: Number(version) } })),
      }, "Make default")
      : "",
    all.length > 1 && !labelsOf(version).length
      ? h("button", {
        type: "button", class: "small danger", "aria-label": `Remove version ${version}`,
        onclick: () => confirm(`Remove version ${version} of ${name}? Its file will be deleted.`) && act(() => remove(modelPath(name, version))),
      }, "Remove")
      : "",
  ]);
  const compare = all.filter(({ status }) => status === "served").length > 1
    && h("p", {}, h("a", { href: `#/compare?a=${encodeURIComponent(name)}@${all[0].version}&b=${encodeURIComponent(name)}@${all.at(-1).version}` }, "Compare versions"));
  return section("Versions", shown && h("p", {}, h("a", { href: modelAddress(name) }, "Show the default version")),
    h("div", { class: "card" }, table(`Versions of ${name}`, ["Version", "State", "Digest", "Default", "File"], rows, { hideCaption: true }), compare, feedback));
}
