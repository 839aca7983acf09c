// Elements from code. Text is always text: whatever a model or a person is named, it is never read as HTML.

/**
 * An element: h("p", {class: "hint", onclick: …}, "text", child, [more], null).
 * Attributes whose value is null, undefined or false are left out; `on…` are listeners; `value`, `checked` and `files`
 * are properties. There is no `style`: the policy of the page forbids it, classes do it.
 */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "indeterminate"]);

function filled(element, attributes, children) {
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

/** Puts these in place of what the element held. */
export function fill(element, ...children) {
  element.replaceChildren(...flat(children));
  return element;
}

let made = 0;
/** An id that no other element has. */
export const newId = (stem = "id") => `${stem}-${++made}`;

/** Says it to screen readers, without moving anything. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** The head of a view: its title (which takes the focus), a line beneath, and what stands beside it. */
export function heading(title, lead = null, ...beside) {
  document.title = `${title} · Lipcert`;
  return h("div", { class: "heading" },
    h("div", {}, h("h1", { tabindex: -1 }, title), lead && h("p", { class: "lead" }, lead)),
    beside.length ? h("div", { class: "row" }, beside) : null);
}

/** A section with its own heading. */
export function section(title, ...children) {
  const id = newId("section");
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), children);
}

/** A short word in colour: kind is good, bad, warn or plain. */
export const badge = (text, kind = "plain") => h("span", { class: `badge ${kind}` }, text);

/** Terms and what they are: facts([["norm", "ℓ₂"], …]); entries that are null are left out. */
export function facts(entries) {
  return h("dl", { class: "facts" },
    entries.filter(Boolean).map(([term, ...value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/**
 * A table: columns are names, or {name, numeric: true}; rows are lists of text and elements. The first cell of a row heads it.
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

/** A label, its control, and a hint: the control gets the id that ties them. */
export function field(label, control, hint = null) {
  control.id ||= newId("field");
  const hintId = hint && newId("hint");
  if (hintId) control.setAttribute("aria-describedby", hintId);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control,
    hint && h("p", { class: "hint", id: hintId }, hint));
}

/** A list to choose from: choices are [value, text]. */
export function select(choices, value, attributes = {}) {
  const element = h("select", attributes, choices.map(([key, text]) => h("option", { value: key }, text)));
  if (value !== undefined && value !== null) element.value = value;
  return element;
}

/** A few choices side by side, one of them taken: choices are [value, text]; `onchoose(value)`. */
export function choice(legend, choices, value, onchoose) {
  const name = newId("choice");
  return h("fieldset", { class: "choice" }, h("legend", {}, legend),
    choices.map(([key, text]) => h("label", {},
      h("input", { type: "radio", name, value: key, checked: key === value, onchange: () => onchoose(key) }), h("span", {}, text))));
}

/** Something that went well, badly, or is only to be known: kind is good, bad, warn or plain. */
export function notice(kind, title, ...more) {
  return h("div", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : null }, h("p", { class: "title" }, title), more);
}

/** Nothing is there yet: what would be, and how to get it. */
export const empty = (title, ...more) => h("div", { class: "empty" }, h("p", { class: "title" }, title), more);

/** Work goes on. */
export const loading = (text = "Loading …") => h("p", { class: "loading", role: "status" }, text);

/** Thrown where what a person gave cannot be used: the message says what is wrong with it. */
export class Unusable extends Error {}

/** An error of api.js (or any other) in words, with a button that tries again where `again` is given. */
export function problem(error, again = null) {
  if (error instanceof Unusable) return notice("bad", error.message);
  const told = error.problem ?? {};
  const title = error.offline ? "The service does not answer" : told.title ?? "Something went wrong on this page";
  const detail = error.offline ? "It may have stopped, or the network is down. What you see is what it said last." : told.detail ?? error.message;
  return notice("bad", title, h("p", {}, detail),
    told.type && h("p", { class: "hint" }, h("a", { href: told.type }, "What this kind of problem means")),
    again && h("p", {}, h("button", { type: "button", onclick: again }, "Try again")));
}

/** A digest, short to read and whole to copy. */
export function digest(sha256) {
  return h("span", { class: "digest" },
    h("code", { title: sha256 }, `${sha256.slice(0, 12)}…`), copyButton(sha256, "Copy the digest"));
}

/** A button that copies the text. */
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

/** Hands the person a file. */
export function download(name, content, type) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** A place to drop a file on, or to choose one with: `onfile(file)`. */
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
