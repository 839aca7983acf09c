// A model of two numbers as a map: what it answers where, how far that is certified, and a point to move about.

import { fill, h, loading, newId, problem } from "../../dom.js";
import { down, near, norm as symbol, percent } from "../../numbers.js";
import { draw, save, scales } from "../../plots.js";
import { ball, contours, cross, disc, link, paint, points } from "./marks.js";
import { panel } from "./panel.js";
import { trial } from "./trial.js";
import { field } from "./wire.js";

const CELLS = 99; // a side: one request, within the service's default limit of rows
const STEP = 1 / 100; // of a side, by an arrow key; ten times that with Shift
const MARGIN = 0.12;
const NARROW = 480; // pixels

/** Shows the map of a model; see try.js. */
export function show(place, { model, samples, norm }) {
  const narrow = place.clientWidth < NARROW;
  const sides = narrow ? 1.1 : 1.6; // width to height
  const area = extent(model, samples, sides);
  const names = model.input_claim.columns.length ? model.input_claim.columns : ["x₁", "x₂"];
  const told = panel((label) => h("span", { class: `swatch class-${label % 10}` }));
  const state = { point: null, ball: null, other: null, stale: true, plane: null };
  let drawn = null;
  let colours = null;
  let closed = false;
  let sought = null;

  const node = h("div", { class: "plot map", role: "img", "aria-label": "Map, not yet drawn" });
  const handle = h("div", { class: "handle", hidden: true, tabindex: 0, role: "application", "aria-roledescription": "movable point", "aria-describedby": newId("keys") });
  const keys = h("p", { class: "hint", id: handle.getAttribute("aria-describedby") },
    "Drag the point, press anywhere, or use the arrow keys on it (with Shift, larger steps).");
  const stage = h("div", { class: "stage" }, node, handle);
  const waiting = h("div", {}, loading("Asking for the whole map …"));
  const boxes = names.map((name, axis) => h("input", {
    type: "number", step: "any", id: newId("coordinate"), "aria-label": name,
    onchange: () => { if (boxes[axis].value !== "") move(axis ? [state.point[0], Number(boxes[1].value)] : [Number(boxes[0].value), state.point[1]]); },
  }));

  const test = trial(model, norm, {
    moved(point) {
      state.point = point;
      state.stale = true;
      boxes.forEach((box, axis) => { if (document.activeElement !== box) box.value = Number(point[axis].toPrecision(6)); });
      handle.setAttribute("aria-label", `The point: ${names.map((name, axis) => `${name} ${near(point[axis], 3)}`).join(", ")}`);
      put();
    },
    answered(prediction, point, measured) {
      state.ball = { at: point, radius: prediction.certified_radius, norm: measured };
      told.answered(prediction, measured);
      mark();
    },
    searching: () => told.searching(),
    found(finding, point, measured) {
      state.other = finding.found ? { from: point, to: finding.adversarial, refuted: finding.refuted } : null;
      state.stale = false;
      told.found(finding, measured);
      mark();
    },
    failed(error, what) {
      if (what === "predict") state.ball = null;
      state.other = null;
      told.failed(error, what);
      mark();
    },
  });

  function move(to) {
    test.move(to.map((value, axis) => Math.min(Math.max(value, area[axis][0]), area[axis][1])));
  }

  /** The handle over its place on the plot. */
  function put() {
    if (!drawn || !state.point) return;
    const [left, top] = scales(node).toPixel(state.point);
    handle.hidden = false;
    handle.style.left = `${left}px`;
    handle.style.top = `${top}px`;
  }

  /** What stands on the map beside the handle. */
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

  const mark = () => drawn?.Plotly.relayout(node, { shapes: marks() });

  function build(theme) {
    colours = theme;
    const [x, y] = [0, 1].map((axis) => places(area[axis]));
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

  async function survey(measured) {
    sought?.abort();
    const mine = sought = new AbortController();
    fill(waiting, loading("Asking for the whole map …"));
    try {
      const [x, y] = area.map(places);
      const plane = await field(model, y.flatMap((b) => x.map((a) => [a, b])), measured, mine.signal);
      if (mine.signal.aborted) return;
      state.plane = plane;
      fill(waiting);
      node.setAttribute("aria-label", described(model, names, area, plane));
      legend.textContent = `Colour: the answer; the deeper, the larger the certified radius in ${symbol(measured)} `
        + `(up to ${down(largest(plane.radii), 3)} here). Lines join equal radii.`;
      await ready;
      await drawn?.redraw();
    } catch (error) {
      if (!mine.signal.aborted) fill(waiting, problem(error, () => survey(measured)));
    }
  }

  // --- by hand

  function grab(event) {
    if (event.button || !drawn) return;
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    stage.classList.add("held");
    handle.focus({ preventScroll: true });
    follow(event);
  }

  function follow(event) {
    if (!stage.classList.contains("held")) return;
    const box = node.getBoundingClientRect();
    move(scales(node).toData([event.clientX - box.left, event.clientY - box.top]));
  }

  const release = () => stage.classList.remove("held");

  stage.addEventListener("pointerdown", grab);
  stage.addEventListener("pointermove", follow);
  stage.addEventListener("pointerup", release);
  stage.addEventListener("pointercancel", release);

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
  handle.addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way) return;
    event.preventDefault();
    move(way.map((sign, axis) => state.point[axis] + sign * STEP * (event.shiftKey ? 10 : 1) * (area[axis][1] - area[axis][0])));
  });

  // --- put together

  const legend = h("p", { class: "hint" });
  const saving = h("span", { class: "saving" }, ["svg", "png"].map((format) => h("button", {
    type: "button", class: "quiet small", "aria-label": `Save the map as ${format.toUpperCase()}`,
    onclick: () => save(node, `${model.name}-map`, format),
  }, format.toUpperCase())));
  const swatches = h("ul", { class: "legend" },
    model.classes.map((name, index) => h("li", {}, h("span", { class: `swatch class-${index % 10}` }), name)),
    h("li", {}, h("span", { class: "swatch ball" }), "certified ball"),
    h("li", {}, h("span", { class: "swatch cross" }, "✕"), "closest attack"));
  fill(place, h("div", { class: "trial-view" },
    h("section", { class: "card", "aria-label": "Map" }, stage, waiting, h("div", { class: "row spread" }, swatches, saving), legend, keys),
    h("div", {},
      h("div", { class: "card pair" }, names.map((name, axis) => h("div", { class: "field" }, h("label", { for: boxes[axis].id }, name), boxes[axis]))),
      told.element,
      samples ? null : h("p", { class: "hint" }, "No samples lie beside this model, so none are shown: the map covers the range that its file names. ",
        h("code", {}, "lipmodel train"), " writes them as NAME.samples.npz."))));

  node.style.aspectRatio = String(sides);
  async function begin() {
    const plot = await draw(node, build);
    if (closed) return plot.remove();
    drawn = plot;
    node.on("plotly_afterplot", put);
    put();
    return mark();
  }

  const ready = begin(); // the point is answered, and the map asked for, while the drawing library loads
  ready.catch((error) => fill(waiting, problem(error)));
  move(beginning(area, samples));
  survey(norm);
  return {
    measure(by) { test.measure(by); survey(by); },
    close() { closed = true; sought?.abort(); test.close(); drawn?.remove(); },
  };
}

/** The range of each coordinate: of the samples, else what the file claims of its data, with a margin that makes the sides so. */
function extent(model, samples, sides) {
  const [low, high] = model.input_box ?? [-2, 2];
  const ranges = [0, 1].map((axis) => {
    const values = samples ? samples.inputs.map((row) => row[axis]) : [low, high];
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const margin = MARGIN * (most - least) || 1;
    return [least - margin, most + margin];
  });
  const lacking = side(ranges[0]) - sides * side(ranges[1]);
  const [axis, more] = lacking > 0 ? [1, lacking / sides / 2] : [0, -lacking / 2];
  ranges[axis] = [ranges[axis][0] - more, ranges[axis][1] + more];
  return ranges;
}

/** Where to begin: near the middle, so that both answers are close. */
function beginning(area, samples) {
  const middle = area.map(([low, high]) => (low + high) / 2);
  if (!samples) return middle;
  const away = (row) => Math.hypot(row[0] - middle[0], row[1] - middle[1]);
  return samples.inputs.reduce((best, row) => (away(row) < away(best) ? row : best));
}

/** The map in words. */
function described({ classes }, names, area, { labels, radii }) {
  const shares = classes.map((name, index) => [labels.filter((label) => label === index).length / labels.length, name])
    .filter(([share]) => share).map(([share, name]) => `${percent(share, 0)} is answered ${name}`);
  const axes = names.map((name, axis) => `${name} from ${near(area[axis][0], 3)} to ${near(area[axis][1], 3)}`);
  return `Map of ${axes.join(" and ")}: ${shares.join(", ")}; certified radii reach ${down(largest(radii), 3)}`;
}

const largest = (values) => values.reduce((a, b) => Math.max(a, b), 0);
const side = ([low, high]) => high - low;
const places = ([low, high]) => Array.from({ length: CELLS }, (_, index) => low + ((high - low) * index) / (CELLS - 1));
