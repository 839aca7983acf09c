// A model with two inputs as a map: predicted labels, certified radii, and a movable input.

import { fill, h, loading, newId, problem } from "../../dom.js";
import { down, near, norm as symbol, percent } from "../../numbers.js";
import { draw, save, scales } from "../../plots.js";
import { ball, contours, cross, disc, link, paint, points } from "./marks.js";
import { panel } from "./panel.js";
import { trial } from "./trial.js";
import { field } from "./wire.js";

const CELLS = 99; // per side: one request, within the service's default row limit
const STEP = 1 / 100; // of a side, per arrow key; ten times that with Shift
const MARGIN = 0.12;
const NARROW = 480; // pixels

/** Show the map of a model; see try.js. */
export function show(container, { model, samples, norm }) {
  const narrow = container.clientWidth < NARROW;
  const sides = narrow ? 1.1 : 1.6; // width to height
  const area = extent(model, samples, sides);
  const names = model.input_claim.columns.length ? model.input_claim.columns : ["x₁", "x₂"];
  const results = panel((label) => h("span", { class: `swatch class-${label % 10}` }));
  const state = { point: null, ball: null, other: null, stale: true, plane: null };
  let drawn = null;
  let colours = null;
  let closed = false;
  let surveying = null;

  const node = h("div", { class: "plot map", role: "img", "aria-label": "Map, loading" });
  const handle = h("div", { class: "handle", hidden: true, tabindex: 0, role: "application", "aria-roledescription": "movable point", "aria-describedby": newId("keys") });
  const keys = h("p", { class: "hint", id: handle.getAttribute("aria-describedby") },
    "Drag the point, click anywhere on the map, or focus the point and use the arrow keys (with Shift for larger steps).");
  const stage = h("div", { class: "stage" }, node, handle);
  const pending = h("div", {}, loading("Loading the map …"));
  const boxes = names.map((name, axis) => h("input", {
    type: "number", step: "any", id: newId("coordinate"), "aria-label": name,
    onchange: () => { if (boxes[axis].value !== "") move(axis ? [state.point[0], Number(boxes[1].value)] : [Number(boxes[0].value), state.point[1]]); },
  }));

  const session = trial(model, norm, {
    moved(point) {
      state.point = point;
      state.stale = true;
      boxes.forEach((box, axis) => { if (document.activeElement !== box) box.value = Number(point[axis].toPrecision(6)); });
      handle.setAttribute("aria-label", `Input: ${names.map((name, axis) => `${name} ${near(point[axis], 3)}`).join(", ")}`);
      placeHandle();
    },
    predicted(prediction, point, usedNorm) {
      state.ball = { at: point, radius: prediction.certified_radius, norm: usedNorm };
      results.predicted(prediction, usedNorm);
      updateMarks();
    },
    searching: () => results.searching(),
    found(finding, point, usedNorm) {
      state.other = finding.found ? { from: point, to: finding.adversarial, refuted: finding.refuted } : null;
      state.stale = false;
      results.found(finding, usedNorm);
      updateMarks();
    },
    failed(error, operation) {
      if (operation === "predict") state.ball = null;
      state.other = null;
      results.failed(error, operation);
      updateMarks();
    },
  });

  function move(to) {
    session.move(to.map((value, axis) => Math.min(Math.max(value, area[axis][0]), area[axis][1])));
  }

  /** Place the handle over the input on the plot. */
  function placeHandle() {
    if (!drawn || !state.point) return;
    const [left, top] = scales(node).toPixel(state.point);
    handle.hidden = false;
    handle.style.left = `${left}px`;
    handle.style.top = `${top}px`;
  }

  /** Return the shapes drawn on the map. */
  function marks() {
    const { ball: certified, other, stale } = state;
    const refuted = other?.refuted && !stale;
    return [
      certified && ball(certified, refuted ? colours.bad : colours.certified, colours.paper),
      other && !stale && link(other.from, other.to, other.refuted ? colours.bad : colours.observed),
      other && cross(other.to, other.refuted ? colours.bad : colours.observed, stale ? 0.35 : 1),
      certified && disc(certified.at, colours.text, colours.paper),
    ].filter(Boolean);
  }

  const updateMarks = () => drawn?.Plotly.relayout(node, { shapes: marks() });

  function build(theme) {
    colours = theme;
    const [x, y] = [0, 1].map((axis) => gridOf(area[axis]));
    const step = [x[1] - x[0], y[1] - y[0]];
    const plane = state.plane;
    const lines = plane ? contours(plane, CELLS, colours) : [];
    const dots = samples ? model.classes.map((name, index) => points(samples, index, name, colours)) : [];
    const axis = (which, more) => ({
      title: narrow ? "" : names[which], ticklabelposition: narrow ? "inside" : "outside", ticks: narrow ? "" : "outside", automargin: !narrow, nticks: narrow ? 5 : 9,
      range: area[which], fixedrange: true, constrain: "domain", showgrid: false, zeroline: false, ...more,
    });
    return {
      data: [...lines.map((line) => ({ ...line, x, y })), ...dots],
      layout: {
        dragmode: false, showlegend: false, hovermode: false, margin: narrow ? { l: 2, r: 2, t: 2, b: 2 } : { l: 44, r: 4, t: 6, b: 42 },
        xaxis: axis(0), yaxis: axis(1, { scaleanchor: "x" }),
        images: plane ? [{
          source: paint(plane, CELLS, model.classes.map((_, index) => colours.classes[index % 10]), colours.paper),
          xref: "x", yref: "y", x: x[0] - step[0] / 2, y: area[1][1] + step[1] / 2, xanchor: "left", yanchor: "top",
          sizex: step[0] * CELLS, sizey: step[1] * CELLS, sizing: "stretch", layer: "below",
        }] : [],
        shapes: marks(),
      },
    };
  }

  async function loadPlane(usedNorm) {
    surveying?.abort();
    const controller = surveying = new AbortController();
    fill(pending, loading("Loading the map …"));
    try {
      const [x, y] = area.map(gridOf);
      const plane = await field(model, y.flatMap((b) => x.map((a) => [a, b])), usedNorm, controller.signal);
      if (controller.signal.aborted) return;
      state.plane = plane;
      fill(pending);
      node.setAttribute("aria-label", describe(model, names, area, plane));
      legend.textContent = `Colour: predicted label; deeper colours: larger certified radii (${symbol(usedNorm)}, `
        + `here up to ${down(largest(plane.radii), 3)}). Contour lines: equal radii.`;
      await ready;
      await drawn?.redraw();
    } catch (error) {
      if (!controller.signal.aborted) fill(pending, problem(error, () => loadPlane(usedNorm)));
    }
  }

  // --- pointer and keyboard

  function startDrag(event) {
    if (event.button || !drawn) return;
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("held");
    handle.focus({ preventScroll: true });
    drag(event);
  }

  function drag(event) {
    if (!stage.classList.contains("held")) return;
    const box = node.getBoundingClientRect();
    move(scales(node).toData([event.clientX - box.left, event.clientY - box.top]));
  }

  const endDrag = () => stage.classList.remove("held");

  stage.addEventListener("pointerdown", startDrag);
  stage.addEventListener("pointermove", drag);
  stage.addEventListener("pointerup", endDrag);
  stage.addEventListener("pointercancel", endDrag);

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
  handle.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (!direction) return;
    event.preventDefault();
    move(direction.map((sign, axis) => state.point[axis] + sign * STEP * (event.shiftKey ? 10 : 1) * (area[axis][1] - area[axis][0])));
  });

  // --- layout

  const legend = h("p", { class: "hint" });
  const saving = h("span", { class: "saving" }, ["svg", "png"].map((format) => h("button", {
    type: "button", class: "quiet small", "aria-label": `Save the map as ${format.toUpperCase()}`,
    onclick: () => save(node, `${model.name}-map`, format),
  }, format.toUpperCase())));
  const swatches = h("ul", { class: "legend" },
    model.classes.map((name, index) => h("li", {}, h("span", { class: `swatch class-${index % 10}` }), name)),
    h("li", {}, h("span", { class: "swatch ball" }), "certified ball"),
    h("li", {}, h("span", { class: "swatch cross" }, "✕"), "adversarial example"));
  fill(container, h("div", { class: "trial-view" },
    h("section", { class: "card", "aria-label": "Map" }, stage, pending, h("div", { class: "row spread" }, swatches, saving), legend, keys),
    h("div", {},
      h("div", { class: "card pair" }, names.map((name, axis) => h("div", { class: "field" }, h("label", { for: boxes[axis].id }, name), boxes[axis]))),
      results.element,
      samples ? null : h("p", { class: "hint" }, "This model has no stored samples; the map covers the input range that its file states. ",
        h("code", {}, "lipmodel train"), " writes samples to NAME.samples.npz."))));

  node.style.aspectRatio = String(sides);
  async function begin() {
    const plot = await draw(node, build);
    if (closed) return plot.remove();
    drawn = plot;
    node.on("plotly_afterplot", placeHandle);
    placeHandle();
    return updateMarks();
  }

  const ready = begin(); // the prediction and the map are requested while Plotly loads
  ready.catch((error) => fill(pending, problem(error)));
  move(initialPoint(area, samples));
  loadPlane(norm);
  return {
    setNorm(to) { session.setNorm(to); loadPlane(to); },
    close() { closed = true; surveying?.abort(); session.close(); drawn?.remove(); },
  };
}

/** Return the range of each axis: that of the samples, or else of the data as the file claims, extended to the aspect ratio. */
function extent(model, samples, sides) {
  const [low, high] = model.input_box ?? [-2, 2];
  const ranges = [0, 1].map((axis) => {
    const values = samples ? samples.inputs.map((row) => row[axis]) : [low, high];
    const [lowest, highest] = [Math.min(...values), Math.max(...values)];
    const margin = MARGIN * (highest - lowest) || 1;
    return [lowest - margin, highest + margin];
  });
  const lacking = side(ranges[0]) - sides * side(ranges[1]);
  const [axis, more] = lacking > 0 ? [1, lacking / sides / 2] : [0, -lacking / 2];
  ranges[axis] = [ranges[axis][0] - more, ranges[axis][1] + more];
  return ranges;
}

/** Return the initial input: near the centre, close to the decision boundary. */
function initialPoint(area, samples) {
  const middle = area.map(([low, high]) => (low + high) / 2);
  if (!samples) return middle;
  const distance = (row) => Math.hypot(row[0] - middle[0], row[1] - middle[1]);
  return samples.inputs.reduce((best, row) => (distance(row) < distance(best) ? row : best));
}

/** Describe the map. */
function describe({ classes }, names, area, { labels, radii }) {
  const shares = classes.map((name, index) => [labels.filter((label) => label === index).length / labels.length, name])
    .filter(([share]) => share).map(([share, name]) => `${percent(share, 0)} ${name}`);
  const axes = names.map((name, axis) => `${name} from ${near(area[axis][0], 3)} to ${near(area[axis][1], 3)}`);
  return `Map of ${axes.join(" and ")}: ${shares.join(", ")}; certified radii up to ${down(largest(radii), 3)}`;
}

const largest = (values) => values.reduce((a, b) => Math.max(a, b), 0);
const side = ([low, high]) => high - low;
const gridOf = ([low, high]) => Array.from({ length: CELLS }, (_, index) => low + ((high - low) * index) / (CELLS - 1));
