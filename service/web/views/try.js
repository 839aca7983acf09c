// Try it: one input, its certificate, and the attempt to break it.

import { get, modelPath } from "../api.js";
import { choice, empty, field, fill, h, heading, loading, select } from "../dom.js";
import { norm as symbol } from "../numbers.js";

const PARTS = {
  map: () => import("./try/map.js"),
  image: () => import("./try/image.js"),
  form: () => import("./try/form.js"),
};

/** Shows the model that the address names; `?version=` takes one of its versions. */
export async function show(container, { name, query }) {
  const listed = (await get("/v1/models")).models.filter((model) => model.status === "served");
  if (!listed.length) {
    fill(container, heading("Try it"),
      empty("No model is served yet", h("p", {}, h("a", { href: "#/models" }, "Models"), " tells what is wrong, and takes uploads.")));
    return undefined;
  }
  if (!name) {
    location.replace(`#/try/${encodeURIComponent(listed[0].name)}`);
    return undefined;
  }
  const model = await get(modelPath(name, query.get("version")));
  const chosen = select(listed.map((one) => [one.name, one.name]), name, {
    onchange: () => { location.hash = `#/try/${encodeURIComponent(chosen.value)}`; },
  });
  const place = h("div", { class: "trials" }, loading());
  fill(container, heading("Try it", "Move an input, watch what is proved of it, and see how close an attack comes."),
    h("div", { class: "row trial-head" }, field("Model", chosen), h("div", { id: "norms" })), place);
  if (model.status !== "served") {
    fill(place, empty(`This model is ${model.status === "checking" ? "being checked" : "refused"}`, h("p", {}, model.reason)));
    return undefined;
  }
  const samples = model.samples ? await get(`${modelPath(model.name, model.version)}/samples`) : null;
  const part = (await PARTS[kind(model)]()).show(place, { model, samples, norm: model.policy.norm });
  const norms = model.policy.action === "flag" ? Object.keys(model.bounds) : [model.policy.norm];
  fill(container.querySelector("#norms"),
    choice("Distances in", norms.map((norm) => [norm, symbol(norm)]), model.policy.norm, (norm) => part.measure(norm)));
  return () => part.close();
}

/** How inputs of the model are best shown: by what its file says of them. */
function kind(model) {
  if (model.input_size === 2) return "map";
  return pictured(model) ? "image" : "form";
}

function pictured({ input_shape: own, input_claim: { shape: claimed } }) {
  const shape = own.length > 1 ? own : claimed ?? own;
  return shape.length === 2 || (shape.length === 3 && [1, 3].includes(shape[0]));
}
