// Images on canvases: their layout in an input row, their rendering, and drawing by hand.

/** Return the image layout of an input row: {height, width, channels, low, high, size, at(row, column, channel)}. */
export function layout(model, samples) {
  const shape = model.input_shape.length > 1 ? model.input_shape : model.input_claim.shape;
  const [channels, height, width] = shape.length === 3 ? shape : [1, ...shape];
  const [low, high] = model.input_box ?? (samples ? extremes(samples.inputs.flat()) : [0, 1]);
  return { height, width, channels, low, high, size: channels * height * width, at: (row, column, channel) => (channel * height + row) * width + column };
}

const extremes = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

/** Paint an image on a canvas, one canvas pixel per image pixel; the style sheet enlarges it. */
export function paint(canvas, image, values) {
  const { height, width, channels, low, high, at } = image;
  const level = (value) => (255 * (value - low)) / (high - low || 1); // the canvas clips to 0 … 255
  fillPixels(canvas, image, (row, column) => [0, 1, 2].map((c) => level(values[at(row, column, channels === 3 ? c : 0)])));
}

/** Paint the difference of two images: increases in one colour, decreases in another, the largest at full intensity. */
export function paintDifference(canvas, image, from, to, { more, less, ground }) {
  const { height, width, channels, at } = image;
  const sum = (row, column) => Array.from({ length: channels }, (_, c) => to[at(row, column, c)] - from[at(row, column, c)])
    .reduce((a, b) => a + b, 0);
  let largest = 0;
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) largest = Math.max(largest, Math.abs(sum(row, column)));
  }
  fillPixels(canvas, image, (row, column) => {
    const share = largest ? sum(row, column) / largest : 0;
    return ground.map((part, index) => part + Math.abs(share) * ((share > 0 ? more : less)[index] - part));
  });
}

function fillPixels(canvas, { height, width }, colour) {
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  const data = pen.createImageData(width, height);
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) data.data.set([...colour(row, column), 255], 4 * (row * width + column));
  }
  pen.putImageData(data, 0, 0);
}

/**
 * Make a canvas drawable, by pointer and by keyboard.
 * @param {{values: () => number[], tool: () => "draw" | "erase", changed: (values) => void, cursor: (row, column, value) => void}} options
 */
export function drawable(canvas, image, { values, tool, changed, cursor }) {
  const { height, width, channels, low, high, at } = image;
  const radius = Math.max(1, Math.min(height, width) / 16);
  let last = null;
  let position = [Math.floor(height / 2), Math.floor(width / 2)];

  /** Add ink around a point: full at the point, none at the brush radius. */
  function ink(image_, y, x) {
    for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(height - 1, y + radius); row += 1) {
      for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, x + radius); column += 1) {
        const share = Math.max(0, 1 - Math.hypot(row - y, column - x) / radius) ** 0.7;
        for (let channel = 0; channel < channels; channel += 1) {
          const index = at(row, column, channel);
          const level = low + share * (high - low);
          image_[index] = tool() === "draw" ? Math.max(image_[index], level) : Math.min(image_[index], low + high - level);
        }
      }
    }
  }

  function positionOf(event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientY - box.top) / box.height) * height - 0.5, ((event.clientX - box.left) / box.width) * width - 0.5];
  }

  function stroke(to) {
    const from = last ?? to;
    const image_ = Array.from(values());
    const steps = Math.max(1, Math.ceil(3 * Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let step = 1; step <= steps; step += 1) {
      ink(image_, ...[0, 1].map((axis) => from[axis] + ((to[axis] - from[axis]) * step) / steps));
    }
    last = to;
    changed(image_);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    last = null;
    stroke(positionOf(event));
  });
  canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) stroke(positionOf(event)); });

  const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  canvas.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    const paints = { " ": high, Enter: high, Backspace: low, Delete: low }[event.key];
    if (!step && paints === undefined) return;
    event.preventDefault();
    if (step) {
      const limits = [height, width];
      position = position.map((value, axis) => Math.min(Math.max(value + step[axis], 0), limits[axis] - 1));
    } else {
      const image_ = Array.from(values());
      for (let channel = 0; channel < channels; channel += 1) image_[at(...position, channel)] = paints;
      changed(image_);
    }
    cursor(...position, values()[at(...position, 0)]);
  });
}

/** Return a CSS colour as three numbers. */
export function rgb(colour) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}
