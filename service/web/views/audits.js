// Audits and evaluations: those there are, the newest first, and a form that starts another.

import { get } from "../api.js";
import { empty, fill, h, heading, problem, section, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { PATHS, isOver, jobAddress, stateBadge } from "./job.js";
import { modelAddress } from "./model.js";
import { startForms } from "./start.js";

const PAGE = 20;
const LOOK_MS = 1500;

export async function show(container, { query }) {
  const { models } = await get("/v1/models");
  const served = models.filter((model) => model.status === "served");
  const list = h("div", {});
  fill(container,
    heading("Audits and evaluations", "An audit looks for a contradiction of what is certified; an evaluation measures what is certified of labelled data."),
    served.length ? startForms(served, query) : empty("No model is served", h("p", {}, "There is nothing to audit.")),
    section("Those there are", list, compareLink(served)));
  return keepListing(list);
}

function compareLink(served) {
  const versions = served.reduce((sum, model) => sum + model.versions.length, 0);
  return versions > 1 && h("p", {}, h("a", { href: "#/compare" }, "Compare two models or versions"));
}

/** Lists, and looks again while any of them runs. */
function keepListing(list) {
  let wanted = PAGE, timer = null, gone = false;
  const look = async () => {
    try {
      const pages = await Promise.all(Object.values(PATHS).map((path) => firstOf(path, wanted)));
      if (gone) return;
      const jobs = pages.flatMap((page) => page.jobs).sort((a, b) => b.created.localeCompare(a.created));
      const more = pages.some((page) => page.more) || jobs.length > wanted;
      fill(list, jobs.length ? [h("div", { class: "card" }, tableOf(jobs.slice(0, wanted))),
        more && h("p", {}, h("button", { type: "button", onclick: () => { wanted += PAGE; look(); } }, "Older ones"))]
        : empty("None yet", h("p", {}, "Start one above. Its result is kept, also when the service starts again.")));
      clearTimeout(timer);
      if (!jobs.every(isOver)) timer = setTimeout(look, LOOK_MS);
    } catch (error) {
      if (!gone) fill(list, problem(error, look));
    }
  };
  look();
  return () => { gone = true; clearTimeout(timer); };
}

async function firstOf(path, wanted) {
  const jobs = [];
  let next = `${path}?limit=${Math.min(100, wanted)}`;
  while (next && jobs.length < wanted) {
    const page = await get(next);
    jobs.push(...page.jobs);
    next = page.next;
  }
  return { jobs, more: next !== null };
}

function tableOf(jobs) {
  return table("Audits and evaluations, the newest first", ["What", "Model", "State", { name: "Took", numeric: true }, "Begun"],
    jobs.map((job) => [
      h("a", { href: jobAddress(job) }, job.kind === "audit" ? "Audit" : "Evaluation"),
      h("a", { href: modelAddress(job.model.name) }, job.model.name),
      h("span", {}, stateBadge(job.state), job.state === "running" ? ` ${Math.floor(100 * job.progress)}%` : ""),
      job.finished && job.started ? numbers.seconds(job.started, job.finished) : "–",
      numbers.moment(job.started ?? job.created),
    ]), { hideCaption: true });
}
