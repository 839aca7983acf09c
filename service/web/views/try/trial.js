// One input on trial: it is moved, the service answers; it rests, the service attacks.

import { attack, predict } from "./wire.js";

const REST_MS = 100; // so long unmoved, an input is attacked

/**
 * Asks about the input as it is moved: one request at a time, always about the newest, none about those in between.
 * @param {object} model as the service tells of it
 * @param {string} norm to begin with
 * @param {{moved: Function, answered: Function, searching: Function, found: Function, failed: Function}} on
 *   moved(row); answered(prediction, row, norm); searching(row); found(finding, row, norm); failed(error, "predict" | "attack")
 */
export function trial(model, norm, on) {
  let row = null;
  let asked = false;
  let waiting = false;
  let rest = null;
  let searching = false;
  let again = false;
  let closed = false;

  async function answer() {
    asked = true;
    while (waiting && !closed) {
      waiting = false;
      const [about, measured] = [row, norm];
      try {
        const [prediction] = await predict(model, [about], measured);
        if (!closed && measured === norm) on.answered(prediction, about, measured);
      } catch (error) {
        if (!closed) on.failed(error, "predict");
      }
    }
    asked = false;
  }

  const asIs = (about, measured) => !closed && about === row && measured === norm;

  /** One search at a time as well; what was moved meanwhile is searched once more, when it rests. */
  async function search() {
    again = true;
    if (searching) return;
    searching = true;
    while (again && !closed) {
      again = false;
      const [about, measured] = [row, norm];
      on.searching(about);
      try {
        const finding = await attack(model, about, measured);
        if (asIs(about, measured)) on.found(finding, about, measured);
      } catch (error) {
        if (asIs(about, measured)) on.failed(error, "attack");
      }
    }
    searching = false;
  }

  function ask() {
    clearTimeout(rest);
    rest = setTimeout(search, REST_MS);
    waiting = true;
    if (!asked) answer();
  }

  return {
    /** The input as it is now. */
    get row() { return row; },
    get norm() { return norm; },
    move(to) {
      row = to;
      on.moved(row);
      ask();
    },
    measure(by) {
      norm = by;
      if (row) ask();
    },
    close() {
      closed = true;
      clearTimeout(rest);
    },
  };
}
