// Images of numbers on canvases: how they lie in a row, how they look, and drawing on them by hand.

/** How the numbers of one input make an image: {height, width, channels, at(row, column, channel), low, high}. */
export function layout(model, samples) {
  const shape = model.input_shape.length > 1 ? model.input_shape : model.input_claim.shape;
  const [channels, height, width] = shape.length === 3 ? shape : [1, ...shape];
  const [low, high] = model.input_box ?? (samples ? ends(samples.inputs.flat()) : [0, 1]);
  return { height, width, channels, low, high, size: channels * height * width, at: (row, column, channel) => (channel * height + row) * width + column };
}

const ends = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

/** Shows an image on a canvas, one number a pixel; the style sheet makes it large. */
export function paint(canvas, image, values) {
  const { height, width, channels, low, high, at } = image;
  const level = (value) => (255 * (value - low)) / (high - low || 1); // out of range is shown as the end of the range
  fillPixels(canvas, image, (row, column) => [0, 1, 2].map((c) => level(values[at(row, column, channels === 3 ? c : 0)])));
}

/** Shows the difference of two images: more in one colour, less in the other, the largest at full strength. */
export function paintChange(canvas, image, from, to, { more, less, ground }) {
  const { height, width, channels, at } = image;
  const sum = (row, column) => Array.from({ length: channels }, (_, c) => to[at(row, column, c)] - from[at(row, column, c)])
    .reduce((a, b) => a + b, 0);
  let most = 0;
  for (let row = 0; row < height; row += 1) {
    for (let column = 0; column < width; column += 1) most = Math.max(most, Math.abs(sum(row, column)));
  }
  fillPixels(canvas, image, (row, column) => {
    const share = most ? sum(row, column) / most : 0;
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
 * Lets a person draw on a canvas, by pointer or by keys.
 * @param {{values: () => number[], tool: () => "draw" | "erase", changed: (values) => void, cursor: (row, column, value) => void}} about
 */
export function drawable(canvas, image, { values, tool, changed, cursor }) {
  const { height, width, channels, low, high, at } = image;
  const radius = Math.max(1, Math.min(height, width) / 16);
  let last = null;
  let place = [Math.floor(height / 2), Math.floor(width / 2)];

  /** Adds ink about a point: full at it, none a brush away. */
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

  function where(event) {
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
    stroke(where(event));
  });
  canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) stroke(where(event)); });

  const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  canvas.addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    const paints = { " ": high, Enter: high, Backspace: low, Delete: low }[event.key];
    if (!way && paints === undefined) return;
    event.preventDefault();
    if (way) {
      const limits = [height, width];
      place = place.map((value, axis) => Math.min(Math.max(value + way[axis], 0), limits[axis] - 1));
    } else {
      const image_ = Array.from(values());
      for (let channel = 0; channel < channels; channel += 1) image_[at(...place, channel)] = paints;
      changed(image_);
    }
    cursor(...place, values()[at(...place, 0)]);
  });
}

/** Any colour of the style sheet as three numbers. */
export function rgb(colour) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}
