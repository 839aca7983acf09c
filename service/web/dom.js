// DOM helpers. Strings become text nodes, so names of models, classes and columns are never parsed as HTML.

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "indeterminate"]);

/**
 * Create an element: h("p", {class: "hint", onclick: …}, "text", child, [more], null).
 * Attributes whose value is null, undefined or false are omitted; `on…` are event listeners; names in PROPERTIES are set
 * as properties. Inline `style` is not supported: the Content-Security-Policy forbids it; use classes.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name) && name in element) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...flat(children));
  return element;
}

const flat = (children) => children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);

/** Replace the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

let lastId = 0;
/** Return an element id that is unique in the document. */
export const newId = (stem = "id") => `${stem}-${++lastId}`;

/** Announce a text to screen readers through the live region. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** Build the header of a view: a focusable title, a subtitle, and controls beside them. */
export function heading(title, lead = null, ...beside) {
  document.title = `${title} · Lipcert`;
  return h("div", { class: "heading" },
    h("div", {}, h("h1", { tabindex: -1 }, title), lead && h("p", { class: "lead" }, lead)),
    beside.length ? h("div", { class: "row" }, beside) : null);
}

/** Build a section labelled by its heading. */
export function section(title, ...children) {
  const id = newId("section");
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
}

/** Build a coloured label: kind is good, bad, warn, accent or plain. */
export const badge = (text, kind = "plain") => h("span", { class: `badge ${kind}` }, text);

/** Build a description list: facts([["Norm", "l2"], …]); falsy entries are omitted. */
export function facts(entries) {
  return h("dl", { class: "facts" },
    entries.filter(Boolean).map(([term, ...value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/**
 * Build a table: columns are names, or {name, numeric: true}; rows are lists of texts and elements; the first cell of a row
 * is its header.
 */
export function table(caption, columns, rows, { hideCaption = false } = {}) {
  const described = columns.map((column) => (typeof column === "string" ? { name: column } : column));
  const kind = (index) => (described[index].numeric ? "numeric" : null);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: hideCaption ? "unseen" : null }, caption),
      h("thead", {}, h("tr", {}, described.map((column, index) => h("th", { scope: "col", class: kind(index) }, column.name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) =>
        h(index ? "td" : "th", { scope: index ? null : "row", class: kind(index) }, cell)))))));
}

/** Build a form field: a label, a control and an optional hint, associated by ids. */
export function field(label, control, hint = null) {
  control.id ||= newId("field");
  const hintId = hint && newId("hint");
  if (hintId) control.setAttribute("aria-describedby", hintId);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control,
    hint && h("p", { class: "hint", id: hintId }, hint));
}

/** Build a drop-down list: choices are [value, text]. */
export function select(choices, value, attributes = {}) {
  const element = h("select", attributes, choices.map(([key, text]) => h("option", { value: key }, text)));
  if (value !== undefined && value !== null) element.value = value;
  return element;
}

/** Build a group of radio buttons in a row: choices are [value, text]; calls `onchoose(value)`. */
export function choice(legend, choices, value, onchoose) {
  const name = newId("choice");
  return h("fieldset", { class: "choice" }, h("legend", {}, legend),
    choices.map(([key, text]) => h("label", {},
      h("input", { type: "radio", name, value: key, checked: key === value, onchange: () => onchoose(key) }), h("span", {}, text))));
}

/** Build a notice: kind is good, bad, warn or plain; bad notices are alerts. */
export function notice(kind, title, ...more) {
  return h("div", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : null }, h("p", { class: "title" }, title), more);
}

/** Build an empty state. */
export const empty = (title, ...more) => h("div", { class: "empty" }, h("p", { class: "title" }, title), more);

/** Build a loading indicator. */
export const loading = (text = "Loading …") => h("p", { class: "loading", role: "status" }, text);

/** Invalid user input; the message is shown as it is. */
export class InputError extends Error {}

/** Build a notice for an error, with a retry button if `retry` is given. */
export function problem(error, retry = null) {
  if (error instanceof InputError) return notice("bad", error.message);
  const { title, detail, type } = error.problem ?? {};
  return notice("bad", error.offline ? "The service does not respond" : title ?? "Unexpected error on this page",
    h("p", {}, error.offline ? "The service may have stopped, or the network may be down. The page shows the last data received." : detail ?? error.message),
    type && h("p", { class: "hint" }, h("a", { href: type }, "About this type of problem")),
    retry && h("p", {}, h("button", { type: "button", onclick: retry }, "Try again")));
}

/** Build an abbreviated SHA-256 digest with a button that copies all of it. */
export function digest(sha256) {
  return h("span", { class: "digest" },
    h("code", { title: sha256 }, `${sha256.slice(0, 12)}…`), copyButton(sha256, "Copy digest"));
}

/** Build a button that copies a text to the clipboard. */
export function copyButton(text, label = "Copy", shown = "Copy") {
  const button = h("button", { type: "button", class: "quiet small", "aria-label": label, title: label }, shown);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    announce("Copied");
    setTimeout(() => { button.textContent = shown; }, 1500);
  });
  return button;
}

/** Start the download of a file. */
export function download(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Build a file input that also accepts drops: calls `onfile(file)`. */
export function dropZone(label, hint, onfile, { accept = null } = {}) {
  const input = h("input", { type: "file", class: "unseen", id: newId("file"), accept });
  const zone = h("div", { class: "drop" }, input,
    h("label", { for: input.id }, h("strong", {}, label), h("span", { class: "hint" }, hint)));
  input.addEventListener("change", () => { if (input.files[0]) onfile(input.files[0]); input.value = ""; });
  for (const name of ["dragenter", "dragover"]) {
    zone.addEventListener(name, (event) => { event.preventDefault(); zone.classList.add("over"); });
  }
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files[0]) onfile(event.dataTransfer.files[0]);
  });
  return zone;
}
