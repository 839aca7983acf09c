// One model: what is proved of it, beside what its file claims.

import { get, modelPath } from "../api.js";
import { badge, digest, facts, fill, h, heading, notice, section, select, table } from "../dom.js";
import * as numbers from "../numbers.js";
import { uploadZone } from "./upload.js";

/** A policy in words. */
export function policyText({ norm, epsilon, action }) {
  if (epsilon === null) return "every answer is given";
  const what = { flag: "is flagged", abstain: "gets no label", reject: "is rejected" }[action];
  return `what is certified below ${numbers.near(epsilon)} in ${numbers.norm(norm)} ${what}`;
}

export async function show(container, { name, query }) {
  const version = query.get("version");
  const model = await get(modelPath(name, version));
  fill(container, heading(name), model.status);
}
