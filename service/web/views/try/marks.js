// What is drawn on the map: shapes and traces as Plotly has them, and the field of answers as a picture.

import { rgb } from "./pixels.js";

const DISC_PIXELS = 6;
const CROSS_PIXELS = 6;

const near = ([x, y]) => ({ xsizemode: "pixel", ysizemode: "pixel", xanchor: x, yanchor: y });

/** The certified ball: a diamond, a disc or a square, as the norm has it. */
export function ball({ at: [x, y], radius: r, norm }, colour, fill) {
  const look = { line: { color: colour, width: 2 }, fillcolor: rgba(fill, 0.4), layer: "above" };
  if (norm === "1") return { type: "path", path: `M ${x - r},${y} L ${x},${y + r} L ${x + r},${y} L ${x},${y - r} Z`, ...look };
  return { type: norm === "2" ? "circle" : "rect", x0: x - r, x1: x + r, y0: y - r, y1: y + r, ...look };
}

/** From the point to what the attack found. */
export const link = (from, to, colour) => ({
  type: "line", x0: from[0], y0: from[1], x1: to[0], y1: to[1], line: { color: colour, width: 1.5, dash: "dot" },
});

/** Where the attack found another answer. */
export const cross = (at, colour, opacity) => ({
  type: "path", ...near(at), opacity, line: { color: colour, width: 3 },
  path: [[-1, -1, 1, 1], [-1, 1, 1, -1]].map(([a, b, c, d]) => `M ${a * CROSS_PIXELS},${b * CROSS_PIXELS} L ${c * CROSS_PIXELS},${d * CROSS_PIXELS}`).join(" "),
});

/** The point itself. */
export const disc = (at, colour, rim) => ({
  type: "circle", ...near(at), x0: -DISC_PIXELS, x1: DISC_PIXELS, y0: -DISC_PIXELS, y1: DISC_PIXELS,
  fillcolor: colour, line: { color: rim, width: 2 },
});

/** The plane as a picture: each answer in its colour, the deeper the larger its certified radius. */
export function paint({ labels, radii }, cells, classes, paper) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = cells;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(cells, cells);
  const most = radii.reduce((a, b) => Math.max(a, b), 0) || 1;
  const [ground, ...shades] = [paper, ...classes].map(rgb);
  for (let index = 0; index < labels.length; index += 1) {
    const shade = shades[labels[index]] ?? ground;
    const share = labels[index] < 0 ? 0 : 0.1 + 0.5 * Math.sqrt(radii[index] / most);
    const row = cells - 1 - Math.floor(index / cells); // pictures begin at the top
    const at = 4 * (row * cells + (index % cells));
    for (let part = 0; part < 3; part += 1) image.data[at + part] = ground[part] + share * (shade[part] - ground[part]);
    image.data[at + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/** Lines of equal radius, and the borders between answers. */
export function contours({ labels, radii }, cells, colours) {
  const rows = (values) => Array.from({ length: cells }, (_, row) => values.slice(row * cells, (row + 1) * cells));
  const most = radii.reduce((a, b) => Math.max(a, b), 0);
  if (!most) return [];
  const size = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].find((step) => most / step <= 8) ?? most / 5;
  const line = (z, levels, width, color, labelled) => ({
    type: "contour", z: rows(z), hoverinfo: "skip", showscale: false, autocontour: false, ncontours: 20, line: { width, color, smoothing: 0.6 },
    contours: { ...levels, coloring: "none", showlabels: labelled, labelfont: { size: 11, color: colours.muted } },
  });
  const here = [...new Set(labels)].filter((label) => label >= 0);
  // For two answers one border is both's.
  const borders = (here.length === 2 ? here.slice(1) : here.length > 2 ? here : []).map((label) => {
    const sided = Array.from(radii, (radius, index) => (labels[index] === label ? radius : -radius));
    return line(sided, { start: most * 1e-6, end: most * 1e-6, size: 1 }, 2, colours.text, false);
  });
  return [line(Array.from(radii), { start: size, end: most, size }, 0.7, colours.muted, true), ...borders];
}

/** The samples of one class. */
export function points({ inputs, labels }, index, name, colours) {
  const mine = inputs.filter((_, row) => labels[row] === index);
  return {
    type: "scatter", mode: "markers", name, x: mine.map((row) => row[0]), y: mine.map((row) => row[1]), hoverinfo: "skip",
    marker: { size: 5, color: colours.classes[index % 10], line: { width: 0.8, color: colours.paper } },
  };
}

const rgba = (colour, alpha) => `rgba(${rgb(colour).join(",")},${alpha})`;
