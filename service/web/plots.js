// Plotly: loading, theming, drawing and saving. No other module uses it directly.

import { download, fill, h, loading, newId, problem, table } from "./dom.js";

// The Content-Security-Policy forbids scripts to write a <style> element. Plotly adds its rules to the element with SHEET_ID,
// so a style sheet of this page carries that id; Plotly omits the rules of its maps, unused here, if an element has MAPS_ID.
const SHEET_ID = "plotly.js-style-global";
const MAPS_ID = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53";

let library = null;

/** Return Plotly, loaded on first use. */
export function plotly() {
  library ??= (async () => {
    await loaded(h("link", { rel: "stylesheet", href: "/web/plots.css", id: SHEET_ID }));
    document.head.append(h("meta", { id: MAPS_ID }));
    await loaded(h("script", { src: "/web/plotly.js" }));
    return globalThis.Plotly;
  })().catch((error) => { library = null; throw error; });
  return library;
}

function loaded(element) {
  return new Promise((resolve, reject) => {
    element.addEventListener("load", resolve);
    element.addEventListener("error", () => { element.remove(); reject(new Error("The plotting library could not be loaded")); });
    document.head.append(element);
  });
}

/** Return the colours of the current theme, from the style sheet. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    certified: colour("certified"), observed: colour("observed"), bad: colour("bad"), text: colour("text"),
    muted: colour("muted"), grid: colour("line"), paper: colour("surface"), font: style.fontFamily,
    classes: Array.from({ length: 10 }, (_, index) => colour(`class-${index}`)),
  };
}

/** Return a Plotly layout in the theme's colours, overridden by the plot's own. */
export function themed(colours, layout = {}) {
  const axis = (own = {}) => ({
    gridcolor: colours.grid, linecolor: colours.grid, zerolinecolor: colours.grid, automargin: true, ...own,
    title: typeof own.title === "string" ? { text: own.title, standoff: 8 } : own.title,
  });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 48, r: 12, t: 12, b: 44 },
    font: { family: colours.font, size: 13, color: colours.text }, hoverlabel: { font: { family: colours.font } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, ...layout,
    xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
  };
}

/**
 * Draw into a node of the document, and redraw whenever the theme changes.
 * @param {HTMLElement} node
 * @param {(colours: object) => {data: object[], layout: object}} build
 * @param {object} config further Plotly configuration
 * @returns {Promise<{node, Plotly, redraw: () => Promise, remove: () => void}>} call `remove` before removing the node
 */
export async function draw(node, build, config = {}) {
  const Plotly = await plotly();
  const redraw = () => {
    const colours = palette();
    const { data, layout } = build(colours);
    return Plotly.react(node, data, themed(colours, layout), { displayModeBar: false, responsive: true, ...config });
  };
  await redraw();
  document.addEventListener("themechange", redraw);
  return { node, Plotly, redraw, remove: () => { document.removeEventListener("themechange", redraw); Plotly.purge(node); } };
}

/**
 * Build a figure: the plot, a text alternative, a table of the same data, and buttons that save the plot.
 * @param {{title: string, alt: string, name: string, build: Function, columns?: any[], rows?: any[][], height?: "tall"}} about
 *   `name` names the saved files
 * @returns {{element: HTMLElement, remove: () => void}} the plot is drawn once the element is in the document
 */
export function figure({ title, alt, name, build, columns, rows, height = null }) {
  const id = newId("figure");
  const node = h("div", { class: `plot ${height ?? ""}`, role: "img", "aria-label": alt });
  const pending = h("div", {}, loading("Drawing …"));
  const element = h("figure", { "aria-labelledby": id },
    h("div", { class: "figure-head" }, h("figcaption", { id }, title), h("div", { class: "row" },
      ["svg", "png"].map((format) => h("button", {
        type: "button", class: "quiet small", "aria-label": `Save “${title}” as ${format.toUpperCase()}`,
        onclick: () => save(node, name, format),
      }, format.toUpperCase())))),
    pending, node,
    rows && h("details", {}, h("summary", {}, "Show as table"), table(title, columns, rows, { hideCaption: true })));
  let drawn = null;
  let gone = false;
  (async () => {
    await null; // lets the caller insert the element first
    try {
      drawn = await draw(node, build);
      pending.remove();
      if (gone) drawn.remove();
    } catch (error) {
      fill(pending, problem(error));
    }
  })();
  return { element, remove: () => { gone = true; drawn?.remove(); } };
}

/** Return the conversions between pixels from the node's corner and coordinates of the axes. */
export function scales(node) {
  const axes = [node._fullLayout.xaxis, node._fullLayout.yaxis]; // not in Plotly's public API
  return {
    toPixel: (point) => axes.map((axis, index) => axis.l2p(point[index]) + axis._offset),
    toData: (pixel) => axes.map((axis, index) => axis.p2l(pixel[index] - axis._offset)),
  };
}

/** Save a plot as "svg" or "png", on the theme's background. */
export async function save(node, name, format) {
  const Plotly = await plotly();
  const size = { width: node.clientWidth, height: node.clientHeight };
  const picture = { data: node.data, layout: { ...node.layout, paper_bgcolor: palette().paper } };
  const url = await Plotly.toImage(picture, { format, ...size, scale: format === "png" ? 2 : 1 });
  const [head, content] = url.split(/,(.*)/s, 2);
  const bytes = head.endsWith(";base64") ? Uint8Array.from(atob(content), (c) => c.charCodeAt(0)) : decodeURIComponent(content);
  download(`${name}.${format}`, bytes, head.slice(5).split(/[;,]/)[0]);
}
