// Check of a signed certificate: the verdict, and each statement beside its recomputed value.

import { get, modelPath, post } from "../api.js";
import { InputError, announce, badge, digest, dropZone, empty, facts, field, fill, h, heading, loading, notice, problem, section, table } from "../dom.js";
import * as numbers from "../numbers.js";

const NAMES = {
  signature: "Signature", "radius from the stated bounds": "Radius from the stated bounds", "digest of the model": "Model digest", "digest of the folded weights": "Digest of the folded weights",
  "size of the input": "Input size", "digest of the input": "Input digest", label: "Label", label_index: "Label index",
  runner_up: "Runner-up", runner_up_index: "Runner-up index", method: "Method", margin: "Margin", certified_radius: "Certified radius",
  "bounds.rival": "Competitor that determines the radius", "bounds.mixture": "Target scores", "bounds.bound_margin": "Exact margin, lower bound (M)", "bounds.bound_lead": "Computed margin (m)", "bounds.bound_input_rounding": "Input rounding (T)", "bounds.bound_lipschitz": "Lipschitz constant (L)",
  "bounds.bound_error": "Rounding error (E)", "bounds.bound_error_slope": "Growth of the rounding error (B)", "bounds.bound_norm_ratio": "Norm ratio (κ)",
  "bounds.bound_overflow_radius": "Overflow-free radius (R)", answer: "Prediction",
};

export async function show(container) {
  const certificate = h("textarea", { class: "code", rows: 5, spellcheck: "false", required: true, placeholder: "eyJhbGciOiJFZERTQSIs…" });
  const input = h("textarea", { class: "code", rows: 3, spellcheck: "false", placeholder: "[0.0, 1.0]" });
  const keys = h("textarea", { class: "code", rows: 3, spellcheck: "false", placeholder: '{"keys": […]}' });
  const result = h("div", { class: "view", "aria-live": "polite" });
  const issuer = h("p", { class: "hint" });
  const check = async () => {
    fill(result, loading("Checking …"));
    try {
      const body = { certificate: tokenOf(certificate.value), input: parsed(input.value, "The input", inputOf), keys: parsed(keys.value, "The key set", (value) => value) };
      fill(result, verdict(await post("/v1/certificates/check", body)));
      announce(result.querySelector(".title").textContent);
    } catch (error) {
      fill(result, problem(error));
    }
  };
  const load = async (file) => { certificate.value = (await file.text()).trim(); await check(); };
  fill(container,
    heading("Check a certificate", "Checks a signed prediction as lipmodel verify does: the signature, the derivation of the radius and, given the input, every number recomputed."),
    h("div", { class: "beside" },
      h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); check(); } },
        field("Certificate", certificate, "The compact JWS of a prediction (three parts separated by dots), or the JSON response that contains it."),
        dropZone("Drop a certificate file here", "or choose one", load),
        field("Input", input, "Optional: the numbers that were sent, as JSON or separated by commas. The certificate contains only their digest."),
        h("details", {}, h("summary", {}, "Keys of another issuer"), field("Key set (JWKS)", keys, "Optional: as published by the issuer. Default: the keys of this service.")),
        h("p", { class: "row" }, h("button", { class: "primary" }, "Check")), issuer),
      result));
  const example = async () => {
    const { models } = await get("/v1/models");
    const name = models.find((model) => model.status === "served")?.name;
    if (!name) throw new InputError("No model is served, so no prediction can be signed.");
    const { samples, input_size } = await get(modelPath(name));
    const inputs = [samples ? (await get(`${modelPath(name)}/samples`)).inputs[0] : Array(input_size).fill(0)];
    const { predictions } = await post(`${modelPath(name)}/predict`, { inputs, certificate: true });
    certificate.value = predictions[0].certificate;
    input.value = JSON.stringify(inputs[0]);
    await check();
  };
  const first = empty("No certificate checked yet", h("p", {}, "Predictions requested with ", h("code", {}, '"certificate": true'), " are signed."));
  fill(result, first);
  get("/.well-known/jwks.json").then((set) => {
    if (set.keys.length) {
      first.append(h("p", {}, h("button", { type: "button", onclick: () => example().catch((error) => fill(result, problem(error))) }, "Sign an example")));
    }
    fill(issuer, set.keys.length
      ? [`This service signs with key ${set.keys[0].kid.slice(0, 12)}…`, set.keys.length > 1 ? ` and publishes ${set.keys.length - 1} earlier keys.` : ".",
        " ", h("a", { href: "/.well-known/jwks.json", download: "jwks.json" }, "Download its key set"), " to check offline."]
      : "This service does not sign and has no keys: give the key set of the issuer.");
  }, () => {});
}

/** Extract the certificate from pasted text: a compact JWS, or JSON that contains one. */
function tokenOf(text) {
  const pasted = text.trim();
  if (!pasted.startsWith("{")) return pasted;
  const value = parsed(pasted, "The certificate", (json) => json);
  const found = value.certificate ?? value.predictions?.find((prediction) => prediction.certificate)?.certificate;
  if (typeof found === "string") return found;
  if (value.format?.startsWith("lipcert-")) throw new InputError("This is a proof certificate. Verify it in exact arithmetic with “lipmodel verify FILE --model MODEL.onnx”; this page checks signed certificates.");
  throw new InputError("This JSON contains no signed certificate.");
}

function parsed(text, name, convert) {
  if (!text.trim()) return null;
  try {
    return convert(JSON.parse(text.trim()));
  } catch {
    try {
      return convert(JSON.parse(`[${text.trim().split(/[\s,;]+/).join(",")}]`));
    } catch {
      throw new InputError(`${name} is not valid JSON.`);
    }
  }
}

/** Return the numbers of one input: [0, 1], [[0, 1]] and {"inputs": [[0, 1]]} are equivalent. */
function inputOf(value) {
  const rows = value.inputs ?? value;
  return Array.isArray(rows[0]) ? rows.flat(Infinity) : rows;
}

// --- result

const KINDS = { holds: ["good", "Certificate holds"], signed: ["warn", "Signature valid, numbers not recomputed"], fails: ["bad", "Certificate does not hold"] };

function verdict({ verdict: outcome, meaning, checks, certificate, model }) {
  const [kind, title] = KINDS[outcome];
  return [
    notice(kind, title, h("p", {}, sentence(meaning))),
    certificate && promise(certificate, model),
    section("Statements", h("div", { class: "card" }, table("Statements, signed and recomputed", ["Statement", { name: "Signed", numeric: true }, { name: "Recomputed", numeric: true }, "Result"],
      checks.map((check) => [NAMES[check.name] ?? check.name, value(check.stated), value(check.computed),
        badge(check.passed ? "passed" : "failed", check.passed ? "good" : "bad")]), { hideCaption: true }),
    checks.filter(({ passed }) => !passed).map(({ name, reason }) => h("p", { class: "hint" }, `${NAMES[name] ?? name}: ${reason}`)))),
  ];
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

function promise(certificate, model) {
  return h("div", { class: "card" }, h("p", {}, h("strong", {}, `“${certificate.label}”`), ", for every input within ",
    h("strong", {}, numbers.down(certificate.certified_radius)), ` (${numbers.norm(certificate.norm)}) of the signed input.`),
  facts([
    ["Issuer", certificate.iss],
    ["Signed", new Date(1000 * certificate.iat).toISOString().replace("T", " ").slice(0, 19), " UTC"],
    ["Model", model ? h("a", { href: `#/models/${encodeURIComponent(model.name)}?version=${model.version}` }, `${model.name}, version ${model.version}`) : "not served by this service"],
    ["Execution", certificate.execution],
    ["Model digest", digest(certificate.model_sha256)],
    ["Certificate ID", h("code", {}, certificate.jti)],
  ]));
}

/** Show a value to its last digit: a stated bound is slightly weaker than the recomputed one. */
function value(given) {
  if (given === null) return "–";
  if (typeof given === "string") return given.length === 64 ? h("code", { title: given }, `${given.slice(0, 10)}…`) : given;
  if (Array.isArray(given)) return given.map(({ score, weight }) => (weight === 1 ? `${score}` : `${weight} × ${score}`)).join(" + ");
  return String(given).replace("-", "−");
}
