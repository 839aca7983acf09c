// Audits and evaluations: a form to start one, and the list of previous ones, newest first.

import { get } from "../api.js";
import { empty, fill, h, heading, problem, section, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { PATHS, isOver, jobAddress, stateBadge } from "./job.js";
import { modelAddress } from "./model.js";
import { startForms } from "./start.js";

const PAGE = 20;
const POLL_MS = 1500;

export async function show(container, { query }) {
  const { models } = await get("/v1/models");
  const served = models.filter((model) => model.status === "served");
  const list = h("div", {});
  fill(container,
    heading("Audits and evaluations", "An audit searches for violations of the proved bounds. An evaluation measures certified accuracy on labelled data."),
    served.length ? startForms(served, query) : empty("No model is served", h("p", {}, "Add a model to start an audit or evaluation.")),
    section("Previous audits and evaluations", list, compareLink(served)));
  return pollList(list);
}

function compareLink(served) {
  const versions = served.reduce((sum, model) => sum + model.versions.length, 0);
  return versions > 1 && h("p", {}, h("a", { href: "#/compare" }, "Compare two models or versions"));
}

/** List the jobs, and poll while any of them runs. Returns a function that stops polling. */
function pollList(list) {
  let limit = PAGE, timer = null, stopped = false;
  const poll = async () => {
    try {
      const pages = await Promise.all(Object.values(PATHS).map((path) => newestOf(path, limit)));
      if (stopped) return;
      const jobs = pages.flatMap((page) => page.jobs).sort((a, b) => b.created.localeCompare(a.created));
      const more = pages.some((page) => page.more) || jobs.length > limit;
      fill(list, jobs.length ? [h("div", { class: "card" }, tableOf(jobs.slice(0, limit))),
        more && h("p", {}, h("button", { type: "button", onclick: () => { limit += PAGE; poll(); } }, "Show more"))]
        : empty("No audits or evaluations yet", h("p", {}, "Start one above. Results are kept across restarts of the service.")));
      clearTimeout(timer);
      if (!jobs.every(isOver)) timer = setTimeout(poll, POLL_MS);
    } catch (error) {
      if (!stopped) fill(list, problem(error, poll));
    }
  };
  poll();
  return () => { stopped = true; clearTimeout(timer); };
}

async function newestOf(path, limit) {
  const jobs = [];
  let next = `${path}?limit=${Math.min(100, limit)}`;
  while (next && jobs.length < limit) {
    const page = await get(next);
    jobs.push(...page.jobs);
    next = page.next;
  }
  return { jobs, more: next !== null };
}

function tableOf(jobs) {
  return table("Audits and evaluations, newest first", ["Kind", "Model", "State", { name: "Duration", numeric: true }, "Started"],
    jobs.map((job) => [
      h("a", { href: jobAddress(job) }, job.kind === "audit" ? "Audit" : "Evaluation"),
      h("a", { href: modelAddress(job.model.name) }, job.model.name),
      h("span", {}, stateBadge(job.state), job.state === "running" ? ` ${Math.floor(100 * job.progress)}%` : ""),
      job.finished && job.started ? numbers.seconds(job.started, job.finished) : "–",
      numbers.moment(job.started ?? job.created),
    ]), { hideCaption: true });
}
