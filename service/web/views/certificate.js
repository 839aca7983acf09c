// A signed certificate: does it hold, and each statement beside the number computed again.

import { get, modelPath, post } from "../api.js";
import { Unusable, announce, badge, digest, dropZone, empty, facts, field, fill, h, heading, loading, notice, problem, section, table } from "../dom.js";
import * as numbers from "../numbers.js";

const NAMES = {
  signature: "Signature", "radius from the stated bounds": "Radius from the bounds stated", "digest of the model": "Digest of the model", "digest of the folded weights": "Digest of the folded weights",
  "size of the input": "Numbers in the input", "digest of the input": "Digest of the input", label: "Label", label_index: "Index of the label",
  runner_up: "Runner-up", runner_up_index: "Index of the runner-up", method: "Method", margin: "Margin", certified_radius: "Certified radius",
  "bounds.rival": "Score that sets the radius", "bounds.mixture": "Scores against it", "bounds.bound_margin": "Margin (M)", "bounds.bound_lead": "Lead (m)", "bounds.bound_input_rounding": "Rounding of the input (T)", "bounds.bound_lipschitz": "Lipschitz constant (L)",
  "bounds.bound_error": "Error of rounding (E)", "bounds.bound_error_slope": "Its growth (B)", "bounds.bound_norm_ratio": "Ratio of norms (κ)",
  "bounds.bound_overflow_radius": "Nothing overflows within (R)", answer: "Answer",
};

export async function show(container) {
  const certificate = h("textarea", { class: "code", rows: 5, spellcheck: "false", required: true, placeholder: "eyJhbGciOiJFZERTQSIs…" });
  const input = h("textarea", { class: "code", rows: 3, spellcheck: "false", placeholder: "[0.0, 1.0]" });
  const keys = h("textarea", { class: "code", rows: 3, spellcheck: "false", placeholder: '{"keys": […]}' });
  const result = h("div", { class: "view", "aria-live": "polite" });
  const own = h("p", { class: "hint" });
  const check = async () => {
    fill(result, loading("Checking …"));
    try {
      const asked = { certificate: tokenOf(certificate.value), input: parsed(input.value, "The input", inputOf), keys: parsed(keys.value, "The key set", (value) => value) };
      fill(result, verdict(await post("/v1/certificates/check", asked)));
      announce(result.querySelector(".title").textContent);
    } catch (error) {
      fill(result, problem(error));
    }
  };
  const taken = async (file) => { certificate.value = (await file.text()).trim(); await check(); };
  fill(container,
    heading("Check a certificate", "A signed answer can be passed on. Here it is checked as lipmodel verify checks it: who signed it, whether its radius follows, and, given the input, every number again."),
    h("div", { class: "beside" },
      h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); check(); } },
        field("Certificate", certificate, "Three parts joined by dots, as an answer gave it; or the answer itself, as JSON."),
        dropZone("Drop the file of one", "or choose it", taken),
        field("Input that was sent", input, "Optional: its numbers, as JSON or with commas. A certificate holds only their digest."),
        h("details", {}, h("summary", {}, "Keys of another issuer"), field("Key set (JWKS)", keys, "Optional: as an issuer publishes it. By default, the keys of this service.")),
        h("p", { class: "row" }, h("button", { class: "primary" }, "Check it")), own),
      result));
  const example = async () => {
    const { models } = await get("/v1/models");
    const name = models.find((model) => model.status === "served")?.name;
    if (!name) throw new Unusable("No model is served, so there is nothing to sign.");
    const { samples, input_size } = await get(modelPath(name));
    const inputs = [samples ? (await get(`${modelPath(name)}/samples`)).inputs[0] : Array(input_size).fill(0)];
    const { predictions } = await post(`${modelPath(name)}/predict`, { inputs, certificate: true });
    certificate.value = predictions[0].certificate;
    input.value = JSON.stringify(inputs[0]);
    await check();
  };
  const first = empty("Nothing is checked yet", h("p", {}, "An answer is signed where a prediction asks for it with ", h("code", {}, '"certificate": true'), "."));
  fill(result, first);
  get("/.well-known/jwks.json").then((set) => {
    if (set.keys.length) {
      first.append(h("p", {}, h("button", { type: "button", onclick: () => example().catch((error) => fill(result, problem(error))) }, "Have an answer signed")));
    }
    fill(own, set.keys.length
      ? [`This service signs with the key ${set.keys[0].kid.slice(0, 12)}…`, set.keys.length > 1 ? ` and publishes ${set.keys.length - 1} earlier.` : ".",
        " ", h("a", { href: "/.well-known/jwks.json", download: "jwks.json" }, "Keep its key set"), " to check offline."]
      : "This service does not sign, so it has no keys: give those of the issuer.");
  }, () => {});
}

/** The certificate in what was pasted: itself, or that of the first answer of a prediction. */
function tokenOf(text) {
  const pasted = text.trim();
  if (!pasted.startsWith("{")) return pasted;
  const value = parsed(pasted, "The certificate", (read) => read);
  const found = value.certificate ?? value.predictions?.find((prediction) => prediction.certificate)?.certificate;
  if (typeof found === "string") return found;
  if (value.format?.startsWith("lipcert-")) throw new Unusable("This is a proof certificate, which “lipmodel verify FILE --model MODEL.onnx” proves in exact arithmetic; signed ones are checked here.");
  throw new Unusable("This JSON holds no signed certificate.");
}

function parsed(text, what, read) {
  if (!text.trim()) return null;
  try {
    return read(JSON.parse(text.trim()));
  } catch {
    try {
      return read(JSON.parse(`[${text.trim().split(/[\s,;]+/).join(",")}]`));
    } catch {
      throw new Unusable(`${what} cannot be read as JSON.`);
    }
  }
}

/** One input: [0, 1], [[0, 1]] and {"inputs": [[0, 1]]} are the same. */
function inputOf(value) {
  const rows = value.inputs ?? value;
  return Array.isArray(rows[0]) ? rows.flat(Infinity) : rows;
}

// --- what was found

const KINDS = { holds: ["good", "It holds"], signed: ["warn", "Signed, not computed again"], fails: ["bad", "It does not hold"] };

function verdict({ verdict: found, meaning, checks, certificate, model }) {
  const [kind, title] = KINDS[found];
  return [
    notice(kind, title, h("p", {}, sentence(meaning))),
    certificate && promise(certificate, model),
    section("Statement by statement", h("div", { class: "card" }, table("Statements, as signed and as computed again", ["Statement", { name: "Signed", numeric: true }, { name: "Computed again", numeric: true }, ""],
      checks.map((check) => [NAMES[check.name] ?? check.name, value(check.stated), value(check.computed),
        badge(check.passed ? "right" : "wrong", check.passed ? "good" : "bad")]), { hideCaption: true }),
    checks.filter(({ passed }) => !passed).map(({ name, reason }) => h("p", { class: "hint" }, `${NAMES[name] ?? name}: ${reason}`)))),
  ];
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

function promise(certificate, model) {
  return h("div", { class: "card" }, h("p", {}, h("strong", {}, `“${certificate.label}”`), ", and no change within ",
    h("strong", {}, numbers.down(certificate.certified_radius)), ` (${numbers.norm(certificate.norm)}) makes it another.`),
  facts([
    ["Issuer", certificate.iss],
    ["Signed", new Date(1000 * certificate.iat).toISOString().replace("T", " ").slice(0, 19), " UTC"],
    ["Model", model ? h("a", { href: `#/models/${encodeURIComponent(model.name)}?version=${model.version}` }, `${model.name}, version ${model.version}`) : "not served here"],
    ["Computed in", certificate.execution],
    ["Digest of the model", digest(certificate.model_sha256)],
    ["Identity", h("code", {}, certificate.jti)],
  ]));
}

/** To the last digit: a bound is stated a little weaker than it is computed again. */
function value(given) {
  if (given === null) return "–";
  if (typeof given === "string") return given.length === 64 ? h("code", { title: given }, `${given.slice(0, 10)}…`) : given;
  if (Array.isArray(given)) return given.map(({ score, weight }) => (weight === 1 ? `${score}` : `${weight} × ${score}`)).join(" + ");
  return String(given).replace("-", "−");
}
