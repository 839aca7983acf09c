// What audits and evaluations have in common: their states, following one, cancelling it, what it leaves to download.

import { events, get, remove, request } from "../api.js";
import { announce, badge, digest, download, fill, h, heading, notice, problem } from "../dom.js";
import * as numbers from "../numbers.js";
import { modelAddress } from "./model.js";

export const PATHS = { audit: "/v1/audits", evaluation: "/v1/evaluations" };
const MOST_PAGES = 5;
const KINDS = { queued: "plain", running: "accent", done: "good", failed: "bad", cancelled: "plain", interrupted: "warn" };
const FILES = {
  audit: ["audit.html", "audit.md", "audit.json"],
  evaluation: ["evaluation.html", "evaluation.md", "evaluation.json", "curve.svg", "curve.png"],
};

/** Ended jobs of a kind about a file, the newest first, among so many pages of jobs. */
export async function doneOf(kind, sha256, pages = MOST_PAGES) {
  const found = [];
  let next = `${PATHS[kind]}?limit=100`;
  for (let page = 0; next && page < pages; page++) {
    const { jobs, next: further } = await get(next);
    found.push(...jobs.filter((job) => job.state === "done" && job.model.sha256 === sha256));
    next = further;
  }
  return found;
}

export const jobAddress = ({ kind, id }) => `#/${kind}s/${encodeURIComponent(id)}`;
export const stateBadge = (state) => badge(state, KINDS[state]);
export const isOver = ({ state }) => !["queued", "running"].includes(state);

/** What a result says against its inputs. */
export const warnings = ({ warnings: all = [] }) => all.map((text) => notice("warn", "These may not be inputs as the model was trained for", h("p", {}, text)));

/**
 * Shows one job: progress while it runs, and `read(job)`, a list of elements, once it is done.
 * @returns what stops following it
 */
export async function followed(container, kind, id, read) {
  const path = `${PATHS[kind]}/${encodeURIComponent(id)}`;
  const stop = new AbortController();
  let job = await get(path);
  const head = h("div", {});
  const body = h("div", { class: "view" });
  fill(container, head, body);

  const show = async () => {
    fill(head, heading(`${kind === "audit" ? "Audit" : "Evaluation"} of ${job.model.name}`, null, ...(isOver(job) ? downloads(job, path) : [cancelButton()])),
      about(job));
    if (job.state === "done") fill(body, await read(job));
    else if (isOver(job)) fill(body, ended(job));
  };
  const cancelButton = () => {
    const button = h("button", { type: "button", class: "danger", onclick: async () => { button.disabled = true; await remove(path); } }, "Cancel");
    return button;
  };
  const follow = async () => {
    const { element, tell } = progress();
    fill(body, element);
    tell(job);
    for await (const { data } of events(`${path}/events`, stop.signal)) {
      tell(data);
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
  const told = [
    ["State", stateBadge(state)],
    ["Model", h("a", { href: modelAddress(model.name) }, model.name), " ", digest(model.sha256)],
    ["Asked for", asked(parameters)],
    ["Begun", numbers.moment(started ?? created)],
    finished && started && ["Took", numbers.seconds(started, finished)],
    result && ["Computed in", result.execution],
  ];
  return h("dl", { class: "line" }, told.filter(Boolean).map(([term, ...value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** The parameters that say something, in words. */
function asked(parameters) {
  const { norm, samples, rows, data, seed, attack, tighten, epsilons, box } = parameters;
  return [
    norm && numbers.norm(norm), samples !== undefined && `${numbers.count(samples)} random points`, rows ? `${numbers.count(rows)} rows sent` : null,
    data && `data: ${data}`, box && `box ${box.low} to ${box.high}`, seed !== undefined && `seed ${seed}`, attack ? `${attack} attacked` : null,
    tighten && "tightened", epsilons?.length && `${epsilons.length} sizes of change`,
  ].filter(Boolean).join(", ") || "what is usual";
}

function progress() {
  const bar = h("progress", { max: 1, "aria-label": "Progress" });
  const words = h("p", { class: "hint number" });
  const tell = ({ state, progress: share, seconds_left: left }) => {
    if (state === "queued") bar.removeAttribute("value");
    else bar.value = share;
    words.textContent = state === "queued" ? "It waits for others to end." : `${Math.floor(100 * share)}%`
      + (left === null ? "" : `, about ${Math.ceil(left)} s left`);
  };
  return { element: h("div", { class: "card" }, bar, words), tell };
}

function ended(job) {
  if (job.problem) return notice("bad", job.problem.title, h("p", {}, job.problem.detail));
  return notice("plain", `It was ${job.state}`, h("p", {}, "There is no result. ", h("a", { href: `#/audits?model=${encodeURIComponent(job.model.name)}` }, "Start another")));
}

function downloads(job, path) {
  if (job.state !== "done") return [];
  const name = `${job.kind}-${job.model.name}-${job.id.slice(0, 8)}`;
  const data = h("button", { type: "button", onclick: () => download(`${name}.json`, JSON.stringify(job, null, 1), "application/json") }, "Data (JSON)");
  if (!job.parameters.report) return [data];
  const fetched = (file) => h("button", {
    type: "button",
    onclick: async () => {
      const answer = await request("GET", `${path}/report/${file}`, { as: "blob" });
      download(`${name}-${file}`, answer.data);
    },
  }, file);
  return [data, h("details", { class: "menu" }, h("summary", { class: "button" }, "Report"), h("div", {}, FILES[job.kind].map(fetched)))];
}
