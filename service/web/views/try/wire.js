// Requests of the Try it view: predictions as binary arrays, the map of a plane, attacks.

import { modelPath, post, request } from "../../api.js";

const NPY = "application/x-npy";
const BYTES = "application/octet-stream";
const LENGTH = "Inference-Header-Content-Length";

/** Encode rows as an .npy file of float64, so that the service receives them bit for bit. */
export function npy(rows) {
  const shape = `(${rows.length}, ${rows[0].length})`;
  const text = `{'descr': '<f8', 'fortran_order': False, 'shape': ${shape}, }`;
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const head = new Uint8Array(10 + length).fill(0x20);
  head.set([0x93, ...[..."NUMPY"].map((c) => c.charCodeAt(0)), 1, 0, length & 255, length >> 8]);
  head.set([...text].map((c) => c.charCodeAt(0)), 10);
  head[head.length - 1] = 0x0a;
  return joined(head, Float64Array.from(rows.flat()));
}

function joined(head, numbers) {
  const bytes = new Uint8Array(head.length + numbers.byteLength);
  bytes.set(head);
  bytes.set(new Uint8Array(numbers.buffer), head.length);
  return bytes;
}

/** Return the predictions for rows, each with its certified radius and the warnings about that row. */
export async function predict(model, rows, norm) {
  const path = `${modelPath(model.name, model.version)}/predict?norm=${norm}`;
  const { predictions, warnings = [] } = (await request("POST", path, { body: npy(rows), headers: { "Content-Type": NPY } })).data;
  return predictions.map((prediction, row) => ({ ...prediction, warnings: warnings.filter(({ inputs }) => inputs.includes(row)) }));
}

/** Return the nearest adversarial example that the service's attack finds for one row. */
export async function attack(model, row, norm) {
  const path = `${modelPath(model.name, model.version)}/attacks`;
  return (await post(path, { inputs: [Array.from(row)], norm })).findings[0];
}

/** Return label indices (-1 if withheld) and certified radii of many rows, by the Open Inference Protocol with binary tensors. */
export async function field(model, rows, norm, signal) {
  const path = modelPath(model.name, model.version).replace("/v1/", "/v2/");
  const { data: metadata } = await request("GET", path, { signal });
  const numbers = Float64Array.from(rows.flat());
  const head = new TextEncoder().encode(JSON.stringify({
    parameters: { norm },
    inputs: [{ name: metadata.inputs[0].name, shape: [rows.length, rows[0].length], datatype: "FP64",
      parameters: { binary_data_size: numbers.byteLength } }],
    outputs: ["label_index", "certified_radius"].map((name) => ({ name, parameters: { binary_data: true } })),
  }));
  const headers = { "Content-Type": BYTES, [LENGTH]: String(head.length) };
  const response = await request("POST", `${path}/infer`, { body: joined(head, numbers), headers, signal, as: "blob" });
  const content = await response.data.slice(Number(response.headers.get(LENGTH))).arrayBuffer();
  const half = content.byteLength / 2;
  return {
    labels: Array.from(new BigInt64Array(content.slice(0, half)), Number),
    radii: new Float64Array(content.slice(half)),
  };
}
