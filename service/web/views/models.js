// All models of the service, one card each, and an upload zone.

import { get } from "../api.js";
import { badge, empty, facts, fill, h, heading, notice } from "../dom.js";
import * as numbers from "../numbers.js";
import { policyText } from "./model.js";
import { uploadZone } from "./upload.js";

export async function show(container) {
  const { models, fault } = await get("/v1/models");
  const served = models.filter((model) => model.status === "served").length;
  fill(container,
    heading("Models", models.length
      ? `${served} of ${models.length} served. Every prediction has a certified radius: no change of the input within the radius changes the label.`
      : null),
    fault && notice("bad", "The models folder has a fault", h("p", {}, fault)),
    models.length
      ? h("ul", { class: "cards" }, models.map((model) => h("li", {}, model.status === "served" ? servedCard(model) : refusedCard(model))))
      : empty("No models yet", h("p", {}, "Drop an ONNX file below, or copy one into the models folder; the service loads it automatically.")),
    uploadZone(models.map((model) => model.name)));
}

function servedCard(model) {
  const many = model.versions.length > 1;
  return h("article", { class: "card" },
    h("div", { class: "card-head" },
      h("h2", {}, h("a", { href: address(model.name) }, model.name)),
      model.fault ? badge("served, with a fault", "warn") : badge("served", "good")),
    facts([
      ["Version", many ? `${model.version} of ${model.versions.length}` : model.version],
      ["Norm", numbers.norm(model.policy.norm)],
      ["Policy", policyText(model.policy)],
      ["Digest", h("code", { title: model.sha256 }, `${model.sha256.slice(0, 12)}…`)],
    ]),
    h("p", { class: "row" }, h("a", { href: address(model.name) }, "Certified bounds"),
      h("a", { href: `#/try/${encodeURIComponent(model.name)}` }, "Try it")));
}

function refusedCard(model) {
  return h("article", { class: "card" },
    h("div", { class: "card-head" }, h("h2", {}, h("a", { href: address(model.name) }, model.name)), badge(model.status, model.status === "checking" ? "warn" : "bad")),
    h("p", {}, model.reason),
    h("p", { class: "hint" }, model.status === "checking" ? "The model is served once its check passes." : "The model is not served: no bound could be proved."));
}

const address = (name) => `#/models/${encodeURIComponent(name)}`;
