// Upload of a model, and the result of its check.

import { request, modelPath } from "../api.js";
import { announce, dropZone, field, fill, h, loading, notice, problem, section } from "../dom.js";
import * as numbers from "../numbers.js";

/** Build the upload section; with a name given, the file becomes the next version of that model. */
export function uploadZone(known, fixed = null) {
  const verdict = h("div", { "aria-live": "polite" });
  const zone = dropZone(
    fixed ? `Drop an ONNX file here to add a version of ${fixed}` : "Drop an ONNX file here, or choose one",
    "The file is checked in a separate process. Files that cannot be certified are refused and not stored.",
    (file) => (fixed ? upload(file, fixed, verdict) : askName(file, known, verdict)), { accept: ".onnx" });
  return section(fixed ? "Add a version" : "Add a model", zone, verdict);
}

function askName(file, known, verdict) {
  const name = h("input", {
    value: file.name.replace(/\.onnx$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-"), required: true, spellcheck: "false", autocomplete: "off",
  });
  const hint = h("span", {});
  const describe = () => { hint.textContent = known.includes(name.value) ? `Adds a version of ${name.value}.` : "Adds a new model."; };
  name.addEventListener("input", describe);
  describe();
  fill(verdict, h("form", {
    class: "card",
    onsubmit: (event) => { event.preventDefault(); upload(file, name.value, verdict); },
  }, field(`Model name for ${file.name}`, name, hint),
  h("p", { class: "row" }, h("button", { class: "primary" }, "Check and serve"),
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
    fill(verdict, notice("good", status === 201 ? `Version ${data.version} of ${name} is served` : `${name} already serves this file`,
      h("p", {}, `All operators are supported. Proved Lipschitz constant of a score: ${numbers.up(bound)} in ${numbers.norm(data.default_norm)}`,
        claimText(data.claim), "."),
      h("p", {}, h("a", { href: `#/models/${encodeURIComponent(name)}` }, "Show the model"))));
  } catch (error) {
    fill(verdict, failure(error, () => upload(file, name, verdict, true)));
  }
}

function claimText(claim) {
  if (!claim) return "";
  return claim.proved ? `, at most the ${numbers.near(claim.lipschitz)} that the file claims`
    : `; the file's claim of ${numbers.near(claim.lipschitz)} is not proved and not used`;
}

/** Explain why an upload failed; `force` uploads an incompatible version as the default. */
function failure(error, force) {
  const kind = error.problem?.type ?? "";
  if (kind.endsWith("/upload-refused")) {
    return notice("bad", "The file was refused and not stored", h("p", {}, error.problem.detail),
      h("p", { class: "hint" }, "Only files with supported operators can be certified. Run “lipmodel inspect FILE” for the same check on your machine."));
  }
  if (kind.endsWith("/incompatible-version")) {
    return notice("warn", "The file is incompatible with the model's clients and was not added", h("p", {}, error.problem.detail),
      h("p", {}, h("button", { type: "button", onclick: force }, "Make it the default anyway")));
  }
  if (kind.endsWith("/uploads-off")) {
    return notice("warn", "Uploads are disabled", h("p", {}, error.problem.detail),
      h("p", { class: "hint" }, "Start the service with --uploads, or copy the file into its models folder, where it is loaded within a second."));
  }
  return problem(error);
}
