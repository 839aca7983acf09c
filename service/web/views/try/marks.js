// Elements of the map: Plotly shapes and traces, and the image of predicted labels.

import { rgb } from "./pixels.js";

const DISC_PIXELS = 6;
const CROSS_PIXELS = 6;

const near = ([x, y]) => ({ xsizemode: "pixel", ysizemode: "pixel", xanchor: x, yanchor: y });

/** The certified ball: a diamond (l1), a disc (l2) or a square (linf). */
export function ball({ at: [x, y], radius: r, norm }, colour, fill) {
  const style = { line: { color: colour, width: 2 }, fillcolor: rgba(fill, 0.4), layer: "above" };
  if (norm === "1") return { type: "path", path: `M ${x - r},${y} L ${x},${y + r} L ${x + r},${y} L ${x},${y - r} Z`, ...style };
  return { type: norm === "2" ? "circle" : "rect", x0: x - r, x1: x + r, y0: y - r, y1: y + r, ...style };
}

/** The line from the input to the adversarial example. */
export const link = (from, to, colour) => ({
  type: "line", x0: from[0], y0: from[1], x1: to[0], y1: to[1], line: { color: colour, width: 1.5, dash: "dot" },
});

/** The mark of the adversarial example. */
export const cross = (at, colour, opacity) => ({
  type: "path", ...near(at), opacity, line: { color: colour, width: 3 },
  path: [[-1, -1, 1, 1], [-1, 1, 1, -1]].map(([a, b, c, d]) => `M ${a * CROSS_PIXELS},${b * CROSS_PIXELS} L ${c * CROSS_PIXELS},${d * CROSS_PIXELS}`).join(" "),
});

/** The mark of the input. */
export const disc = (at, colour, rim) => ({
  type: "circle", ...near(at), x0: -DISC_PIXELS, x1: DISC_PIXELS, y0: -DISC_PIXELS, y1: DISC_PIXELS,
  fillcolor: colour, line: { color: rim, width: 2 },
});

/** Render the plane as an image: one colour per label, deeper for larger certified radii. */
export function paint({ labels, radii }, cells, classes, paper) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = cells;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(cells, cells);
  const largest = radii.reduce((a, b) => Math.max(a, b), 0) || 1;
  const [ground, ...shades] = [paper, ...classes].map(rgb);
  for (let index = 0; index < labels.length; index += 1) {
    const shade = shades[labels[index]] ?? ground;
    const share = labels[index] < 0 ? 0 : 0.1 + 0.5 * Math.sqrt(radii[index] / largest);
    const row = cells - 1 - Math.floor(index / cells); // images start at the top
    const at = 4 * (row * cells + (index % cells));
    for (let part = 0; part < 3; part += 1) image.data[at + part] = ground[part] + share * (shade[part] - ground[part]);
    image.data[at + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/** Return contour lines of equal radius, and the decision boundaries. */
export function contours({ labels, radii }, cells, colours) {
  const rows = (values) => Array.from({ length: cells }, (_, row) => values.slice(row * cells, (row + 1) * cells));
  const largest = radii.reduce((a, b) => Math.max(a, b), 0);
  if (!largest) return [];
  const size = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].find((step) => largest / step <= 8) ?? largest / 5;
  const line = (z, levels, width, color, labelled) => ({
    type: "contour", z: rows(z), hoverinfo: "skip", showscale: false, autocontour: false, ncontours: 20, line: { width, color, smoothing: 0.6 },
    contours: { ...levels, coloring: "none", showlabels: labelled, labelfont: { size: 11, color: colours.muted } },
  });
  const present = [...new Set(labels)].filter((label) => label >= 0);
  // Two classes share one boundary.
  const borders = (present.length === 2 ? present.slice(1) : present.length > 2 ? present : []).map((label) => {
    const sided = Array.from(radii, (radius, index) => (labels[index] === label ? radius : -radius));
    return line(sided, { start: largest * 1e-6, end: largest * 1e-6, size: 1 }, 2, colours.text, false);
  });
  return [line(Array.from(radii), { start: size, end: largest, size }, 0.7, colours.muted, true), ...borders];
}

/** The samples of one class. */
export function points({ inputs, labels }, index, name, colours) {
  const members = inputs.filter((_, row) => labels[row] === index);
  return {
    type: "scatter", mode: "markers", name, x: members.map((row) => row[0]), y: members.map((row) => row[1]), hoverinfo: "skip",
    marker: { size: 5, color: colours.classes[index % 10], line: { width: 0.8, color: colours.paper } },
  };
}

const rgba = (colour, alpha) => `rgba(${rgb(colour).join(",")},${alpha})`;
