// Schedules the requests for one input: a prediction whenever it changes, an attack search once it rests.

import { attack, predict } from "./wire.js";

const REST_MS = 100; // an input unchanged for this long is attacked

/**
 * Request predictions and attacks for a changing input: one request of each kind at a time, always for the latest input.
 * @param {object} model the model's metadata
 * @param {string} norm the initial norm
 * @param {{moved: Function, predicted: Function, searching: Function, found: Function, failed: Function}} on
 *   moved(row); predicted(prediction, row, norm); searching(row); found(finding, row, norm); failed(error, "predict" | "attack")
 */
export function trial(model, norm, on) {
  let row = null;
  let predicting = false;
  let predictionPending = false;
  let restTimer = null;
  let searching = false;
  let searchPending = false;
  let closed = false;

  async function updatePrediction() {
    predicting = true;
    while (predictionPending && !closed) {
      predictionPending = false;
      const [input, inputNorm] = [row, norm];
      try {
        const [prediction] = await predict(model, [input], inputNorm);
        if (!closed && inputNorm === norm) on.predicted(prediction, input, inputNorm);
      } catch (error) {
        if (!closed) on.failed(error, "predict");
      }
    }
    predicting = false;
  }

  const isCurrent = (input, inputNorm) => !closed && input === row && inputNorm === norm;

  /** Run one search at a time; an input changed meanwhile is searched again once it rests. */
  async function search() {
    searchPending = true;
    if (searching) return;
    searching = true;
    while (searchPending && !closed) {
      searchPending = false;
      const [input, inputNorm] = [row, norm];
      on.searching(input);
      try {
        const finding = await attack(model, input, inputNorm);
        if (isCurrent(input, inputNorm)) on.found(finding, input, inputNorm);
      } catch (error) {
        if (isCurrent(input, inputNorm)) on.failed(error, "attack");
      }
    }
    searching = false;
  }

  function schedule() {
    clearTimeout(restTimer);
    restTimer = setTimeout(search, REST_MS);
    predictionPending = true;
    if (!predicting) updatePrediction();
  }

  return {
    /** The current input. */
    get row() { return row; },
    get norm() { return norm; },
    move(to) {
      row = to;
      on.moved(row);
      schedule();
    },
    setNorm(to) {
      norm = to;
      if (row) schedule();
    },
    close() {
      closed = true;
      clearTimeout(restTimer);
    },
  };
}
