// Routing between views, the colour theme, and the API key dialog.

import { forgetKey, hasKey, onKeyRequired } from "./api.js";
import { fill, heading, h, loading, problem } from "./dom.js";

/** Routes: the first pattern that matches the hash selects the view, and its groups become the view's params. Loaded lazily. */
const VIEWS = [
  [/^\/?$|^\/models$/, "models", () => import("./views/models.js"), []],
  [/^\/models\/([^/]+)$/, "models", () => import("./views/model.js"), ["name"]],
  [/^\/try$/, "try", () => import("./views/try.js"), []],
  [/^\/try\/([^/]+)$/, "try", () => import("./views/try.js"), ["name"]],
  [/^\/audits$/, "audits", () => import("./views/audits.js"), []],
  [/^\/audits\/([^/]+)$/, "audits", () => import("./views/audit.js"), ["id"]],
  [/^\/evaluations\/([^/]+)$/, "audits", () => import("./views/evaluation.js"), ["id"]],
  [/^\/compare$/, "audits", () => import("./views/compare.js"), []],
  [/^\/certificate$/, "certificate", () => import("./views/certificate.js"), []],
];

const main = document.getElementById("main");
let leave = null;
let shown = 0;

/** Show the view of the current address: `#/path?key=value` gives params {…groups, query: URLSearchParams}. */
async function route() {
  if (!/^(#\/.*)?$/.test(location.hash)) return; // an anchor within the view
  const number = ++shown;
  const [path, query] = location.hash.slice(1).split("?");
  leave?.();
  leave = null;
  const container = h("div", { class: "view" });
  fill(main, container);
  const found = VIEWS.find(([pattern]) => pattern.test(path));
  markCurrent(found?.[1]);
  if (!found) {
    fill(container, heading("Page not found"), h("p", {}, "No view has this address. ", h("a", { href: "#/models" }, "All models")));
    return;
  }
  const [pattern, , load, names] = found;
  const params = { query: new URLSearchParams(query) };
  pattern.exec(path).slice(1).forEach((value, index) => { params[names[index]] = decodeURIComponent(value); });
  fill(container, loading());
  try {
    const cleanup = await (await load()).show(container, params);
    if (number === shown) leave = cleanup ?? null;
    else cleanup?.();
  } catch (error) {
    if (number !== shown || error.name === "AbortError") return;
    fill(container, heading("Cannot show this view"), problem(error, route));
    if (!error.problem && !error.offline) console.error(error);
  }
  // Navigation moves the focus to the new title, so that screen readers announce it; the first page load does not.
  if (number === shown && number > 1) main.querySelector("h1")?.focus({ preventScroll: true });
}

function markCurrent(name) {
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

// --- theme: the system's, until the user chooses one

const dark = matchMedia("(prefers-color-scheme: dark)");
const toggle = document.getElementById("theme");

function paint() {
  const chosen = localStorage.getItem("lipcert.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  const isDark = (chosen ?? (dark.matches ? "dark" : "light")) === "dark";
  toggle.textContent = isDark ? "Light" : "Dark";
  toggle.setAttribute("aria-label", isDark ? "Switch to the light theme" : "Switch to the dark theme");
  document.dispatchEvent(new Event("themechange"));
}

toggle.addEventListener("click", () => {
  localStorage.setItem("lipcert.theme", toggle.textContent.toLowerCase());
  paint();
});
dark.addEventListener("change", paint);

// --- API key: requested on the first 401

const dialog = document.getElementById("ask");
const keyField = document.getElementById("ask-key");
const forget = document.getElementById("key");

onKeyRequired((reason) => new Promise((resolve) => {
  document.getElementById("ask-why").textContent = reason;
  keyField.value = "";
  dialog.returnValue = "";
  dialog.addEventListener("close", () => {
    const key = dialog.returnValue === "use" ? keyField.value.trim() : null;
    forget.hidden = !key;
    resolve(key);
  }, { once: true });
  dialog.showModal();
}));

forget.hidden = !hasKey();
forget.addEventListener("click", () => {
  forgetKey();
  forget.hidden = true;
  route();
});

document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
addEventListener("hashchange", () => { scrollTo(0, 0); route(); });
paint();
route();
