// All models of the service, one card each; and a place to drop another.

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
      ? `${served} answer${served === 1 ? "s" : ""} with a certified radius: no change of the input within it alters the label.`
      : null),
    fault && notice("bad", "Something is wrong with the models folder", h("p", {}, fault)),
    models.length
      ? h("ul", { class: "cards" }, models.map((model) => h("li", {}, model.status === "served" ? served_(model) : refused(model))))
      : empty("No model is here yet", h("p", {}, "Drop an ONNX file below, or put one into the folder that the service serves: it notices.")),
    uploadZone(models.map((model) => model.name)));
}

function served_(model) {
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
    h("p", { class: "row" }, h("a", { href: address(model.name) }, "What is proved"),
      h("a", { href: `#/try/${encodeURIComponent(model.name)}` }, "Try it")));
}

function refused(model) {
  return h("article", { class: "card" },
    h("div", { class: "card-head" }, h("h2", {}, h("a", { href: address(model.name) }, model.name)), badge(model.status, model.status === "checking" ? "warn" : "bad")),
    h("p", {}, model.reason),
    h("p", { class: "hint" }, model.status === "checking" ? "It is served once its check has ended well." : "It is not served: nothing could be proved of it."));
}

const address = (name) => `#/models/${encodeURIComponent(name)}`;
