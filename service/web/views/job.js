// Shared by audits and evaluations: states, progress, cancelling, downloads.

import { events, get, remove, request } from "../api.js";
import { announce, badge, digest, download, fill, h, heading, notice, problem } from "../dom.js";
import * as numbers from "../numbers.js";
import { modelAddress } from "./model.js";

export const PATHS = { audit: "/v1/audits", evaluation: "/v1/evaluations" };
const MAX_PAGES = 5;
const KINDS = { queued: "plain", running: "accent", done: "good", failed: "bad", cancelled: "plain", interrupted: "warn" };
const TITLES = { audit: "Audit", evaluation: "Evaluation" };
const FILES = {
  audit: ["audit.html", "audit.md", "audit.json"],
  evaluation: ["evaluation.html", "evaluation.md", "evaluation.json", "curve.svg", "curve.png"],
};

/** Return the finished jobs of a kind for a file, newest first, from the first `pages` pages of jobs. */
export async function doneOf(kind, sha256, pages = MAX_PAGES) {
  const done = [];
  let next = `${PATHS[kind]}?limit=100`;
  for (let page = 0; next && page < pages; page++) {
    const { jobs, next: following } = await get(next);
    done.push(...jobs.filter((job) => job.state === "done" && job.model.sha256 === sha256));
    next = following;
  }
  return done;
}

export const jobAddress = ({ kind, id }) => `#/${kind}s/${encodeURIComponent(id)}`;
export const stateBadge = (state) => badge(state, KINDS[state]);
export const isOver = ({ state }) => !["queued", "running"].includes(state);

/** Build notices for the warnings of a result. */
export const warnings = ({ warnings: all = [] }) => all.map((text) => notice("warn", "The inputs may differ from the training data", h("p", {}, text)));

/**
 * Show one job: its progress while it runs, then `render(job)`, a list of elements.
 * @returns a function that stops following the job
 */
export async function followed(container, kind, id, render) {
  const path = `${PATHS[kind]}/${encodeURIComponent(id)}`;
  const stop = new AbortController();
  let job = await get(path);
  const head = h("div", {});
  const body = h("div", { class: "view" });
  fill(container, head, body);

  const show = async () => {
    fill(head, heading(`${TITLES[kind]} of ${job.model.name}`, null, ...(isOver(job) ? downloads(job, path) : [cancelButton()])),
      about(job));
    if (job.state === "done") fill(body, await render(job));
    else if (isOver(job)) fill(body, ended(job));
  };
  const cancelButton = () => {
    const button = h("button", { type: "button", class: "danger", onclick: async () => { button.disabled = true; await remove(path); } }, "Cancel");
    return button;
  };
  const follow = async () => {
    const { element, update } = progress();
    fill(body, element);
    update(job);
    for await (const { data } of events(`${path}/events`, stop.signal)) {
      update(data);
      if (isOver(data)) break;
    }
    job = await get(path, { signal: stop.signal });
    announce(`The ${kind} is ${job.state}`);
    await show();
  };
  const keepFollowing = () => follow().catch((error) => {
    if (error.name !== "AbortError") fill(body, problem(error, keepFollowing));
  });

  await show();
  if (!isOver(job)) keepFollowing();
  return () => stop.abort();
}

function about({ model, state, parameters, created, started, finished, result }) {
  const entries = [
    ["State", stateBadge(state)],
    ["Model", h("a", { href: modelAddress(model.name) }, model.name), " ", digest(model.sha256)],
    ["Parameters", describe(parameters)],
    ["Started", numbers.moment(started ?? created)],
    finished && started && ["Duration", numbers.seconds(started, finished)],
    result && ["Execution", result.execution],
  ];
  return h("dl", { class: "line" }, entries.filter(Boolean).map(([term, ...value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** Describe the parameters of a job. */
function describe(parameters) {
  const { norm, samples, rows, data, seed, attack, tighten, epsilons, box } = parameters;
  return [
    norm && numbers.norm(norm), samples !== undefined && `${numbers.count(samples)} random points`, rows ? `${numbers.count(rows)} rows` : null,
    data && `data: ${data}`, box && `box ${box.low} to ${box.high}`, seed !== undefined && `seed ${seed}`, attack ? `${attack} attacked` : null,
    tighten && "tightened", epsilons?.length && `${epsilons.length} perturbation sizes`,
  ].filter(Boolean).join(", ") || "defaults";
}

function progress() {
  const bar = h("progress", { max: 1, "aria-label": "Progress" });
  const text = h("p", { class: "hint number" });
  const update = ({ state, progress: share, seconds_left: left }) => {
    if (state === "queued") bar.removeAttribute("value");
    else bar.value = share;
    text.textContent = state === "queued" ? "Queued: waiting for other jobs to finish." : `${Math.floor(100 * share)}%`
      + (left === null ? "" : `, about ${Math.ceil(left)} s left`);
  };
  return { element: h("div", { class: "card" }, bar, text), update };
}

function ended(job) {
  if (job.problem) return notice("bad", job.problem.title, h("p", {}, job.problem.detail));
  return notice("plain", `${TITLES[job.kind]} ${job.state}`, h("p", {}, "There is no result. ", h("a", { href: `#/audits?model=${encodeURIComponent(job.model.name)}` }, "Start another")));
}

function downloads(job, path) {
  if (job.state !== "done") return [];
  const name = `${job.kind}-${job.model.name}-${job.id.slice(0, 8)}`;
  const data = h("button", { type: "button", onclick: () => download(`${name}.json`, JSON.stringify(job, null, 1), "application/json") }, "Data (JSON)");
  if (!job.parameters.report) return [data];
  const fileButton = (file) => h("button", {
    type: "button",
    onclick: async () => {
      const response = await request("GET", `${path}/report/${file}`, { as: "blob" });
      download(`${name}-${file}`, response.data);
    },
  }, file);
  return [data, h("details", { class: "menu" }, h("summary", { class: "button" }, "Report"), h("div", {}, FILES[job.kind].map(fileButton)))];
}
