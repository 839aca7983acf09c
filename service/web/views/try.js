// Try it: one input, its certificate, and the nearest adversarial example found.

import { get, modelPath } from "../api.js";
import { choice, empty, field, fill, h, heading, loading, select } from "../dom.js";
import { norm as symbol } from "../numbers.js";

const PARTS = {
  map: () => import("./try/map.js"),
  image: () => import("./try/image.js"),
  form: () => import("./try/form.js"),
};

/** Show the model of the current address; `?version=` selects one of its versions. */
export async function show(container, { name, query }) {
  const listed = (await get("/v1/models")).models.filter((model) => model.status === "served");
  if (!listed.length) {
    fill(container, heading("Try it"),
      empty("No model is served", h("p", {}, "See ", h("a", { href: "#/models" }, "Models"), " for the reasons, or to upload one.")));
    return undefined;
  }
  if (!name) {
    location.replace(`#/try/${encodeURIComponent(listed[0].name)}`);
    return undefined;
  }
  const model = await get(modelPath(name, query.get("version")));
  const chosen = select(listed.map((item) => [item.name, item.name]), name, {
    onchange: () => { location.hash = `#/try/${encodeURIComponent(chosen.value)}`; },
  });
  const body = h("div", { class: "trials" }, loading());
  fill(container, heading("Try it", "Change an input and see its certified radius and the nearest adversarial example found."),
    h("div", { class: "row trial-head" }, field("Model", chosen), h("div", { id: "norms" })), body);
  if (model.status !== "served") {
    fill(body, empty(`This model ${model.status === "checking" ? "is being checked" : "was refused"}`, h("p", {}, model.reason)));
    return undefined;
  }
  const samples = model.samples ? await get(`${modelPath(model.name, model.version)}/samples`) : null;
  const part = (await PARTS[kind(model)]()).show(body, { model, samples, norm: model.policy.norm });
  const norms = model.policy.action === "flag" ? Object.keys(model.bounds) : [model.policy.norm];
  fill(container.querySelector("#norms"),
    choice("Norm", norms.map((norm) => [norm, symbol(norm)]), model.policy.norm, (norm) => part.setNorm(norm)));
  return () => part.close();
}

/** Choose the presentation of inputs from their size and shape. */
function kind(model) {
  if (model.input_size === 2) return "map";
  return hasImageShape(model) ? "image" : "form";
}

function hasImageShape({ input_shape: proper, input_claim: { shape: claimed } }) {
  const shape = proper.length > 1 ? proper : claimed ?? proper;
  return shape.length === 2 || (shape.length === 3 && [1, 3].includes(shape[0]));
}
