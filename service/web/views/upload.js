// A model dropped on the page, and what the loader says of it.

import { request, modelPath } from "../api.js";
import { announce, dropZone, field, fill, h, loading, notice, problem, section } from "../dom.js";
import * as numbers from "../numbers.js";

/** The section; where a name is given, the file becomes that model's next version. */
export function uploadZone(known, fixed = null) {
  const verdict = h("div", { "aria-live": "polite" });
  const zone = dropZone(
    fixed ? `Drop an ONNX file: the next version of ${fixed}` : "Drop an ONNX file, or choose one",
    "It is checked in a process of its own. What cannot be proved is refused, and not kept.",
    (file) => (fixed ? upload(file, fixed, verdict) : askName(file, known, verdict)), { accept: ".onnx" });
  return section(fixed ? "Another version" : "Add a model", zone, verdict);
}

function askName(file, known, verdict) {
  const name = h("input", {
    value: file.name.replace(/\.onnx$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-"), required: true, spellcheck: "false", autocomplete: "off",
  });
  const hint = h("span", {});
  const say = () => { hint.textContent = known.includes(name.value) ? `It becomes the next version of ${name.value}.` : "It becomes a new model."; };
  name.addEventListener("input", say);
  say();
  fill(verdict, h("form", {
    class: "card",
    onsubmit: (event) => { event.preventDefault(); upload(file, name.value, verdict); },
  }, field(`Name of the model in ${file.name}`, name, hint),
  h("p", { class: "row" }, h("button", { class: "primary" }, "Check and serve it"),
    h("button", { type: "button", onclick: () => fill(verdict) }, "Cancel"))));
  name.select();
  name.focus();
}

async function upload(file, name, verdict, force = false) {
  fill(verdict, loading(`Checking ${file.name} (${numbers.count(Math.ceil(file.size / 1024))} KiB) …`));
  try {
    const { status, data } = await request("PUT", modelPath(name) + (force ? "?force=true" : ""), {
      body: file, headers: { "Content-Type": "application/octet-stream" },
    });
    const bound = data.bounds[data.default_norm].global;
    announce(`${name} is served`);
    fill(verdict, notice("good", status === 201 ? `Version ${data.version} of ${name} is served` : `${name} serves this very file already`,
      h("p", {}, `Every operator is understood. No score moves faster than ${numbers.up(bound)} per unit of the input in `,
        `${numbers.norm(data.default_norm)}`, claimText(data.claim), "."),
      h("p", {}, h("a", { href: `#/models/${encodeURIComponent(name)}` }, "What is proved of it"))));
  } catch (error) {
    fill(verdict, verdictOf(error, () => upload(file, name, verdict, true)));
  }
}

function claimText(claim) {
  if (!claim) return "";
  return claim.proved ? `, as the file claims (${numbers.near(claim.lipschitz)})`
    : `; the file's claim of ${numbers.near(claim.lipschitz)} is not proved, and is not used`;
}

/** The loader's verdict in plain words; `force` makes a version the default though it would break clients. */
function verdictOf(error, force) {
  const kind = error.problem?.type ?? "";
  if (kind.endsWith("/upload-refused")) {
    return notice("bad", "The file is refused, and was not kept", h("p", {}, error.problem.detail),
      h("p", { class: "hint" }, "Only what is understood operator by operator can be certified. ",
        "“lipmodel inspect FILE” says the same on your own machine."));
  }
  if (kind.endsWith("/incompatible-version")) {
    return notice("warn", "The file would break the model's clients, and was not added", h("p", {}, error.problem.detail),
      h("p", {}, h("button", { type: "button", onclick: force }, "Make it the default all the same")));
  }
  if (kind.endsWith("/uploads-off")) {
    return notice("warn", "This service takes no uploads", h("p", {}, error.problem.detail),
      h("p", { class: "hint" }, "Start it with --uploads, or copy the file into its models folder: it notices within a second."));
  }
  return problem(error);
}
