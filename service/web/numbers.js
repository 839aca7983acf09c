// Numbers as text. What is certified is never shown larger than it is, a bound or distance never smaller.

const DIGITS = 6;

/** The number to so many significant digits, rounded towards -1 (down), 1 (up) or 0 (nearest). */
function rounded(value, digits, direction) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "not a number";
  if (value === 0) return "0";
  let text = value.toPrecision(digits);
  if (direction && (Number(text) - value) * direction < 0) {
    const unit = 10 ** (Math.floor(Math.log10(Math.abs(value))) - digits + 1);
    text = (Number(text) + direction * unit).toPrecision(digits);
  }
  return written(text, direction === 0);
}

/** With a true minus and a readable exponent; digits that were rounded stay, so that columns can be compared. */
function written(text, tidy) {
  let [digits, exponent] = text.split("e");
  if (tidy && digits.includes(".")) digits = digits.replace(/\.?0+$/, "");
  return (exponent ? `${digits}·10${superscript(Number(exponent))}` : digits).replace("-", "−");
}

const superscript = (number) => String(number).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);

/** A certified radius or a margin: never more than the value. */
export const down = (value, digits = DIGITS) => rounded(value, digits, -1);
/** A bound or a distance to something found: never less than the value. */
export const up = (value, digits = DIGITS) => rounded(value, digits, 1);
/** What was merely measured. */
export const near = (value, digits = DIGITS) => rounded(value, digits, 0);
/** A share as percent. */
export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)}%`);
/** A count, with its thousands apart. */
export const count = (value) => value.toLocaleString("en").replaceAll(",", " ");

const SYMBOLS = { 1: "ℓ₁", 2: "ℓ₂", inf: "ℓ∞" };
/** The norm as people write it. */
export const norm = (name) => SYMBOLS[name] ?? name;

/** A time as people say it: "14:03:07", with the day where that is not today. */
export function moment(text) {
  if (!text) return "–";
  const then = new Date(text), today = new Date().toDateString() === then.toDateString();
  return today ? then.toLocaleTimeString("en-GB") : then.toLocaleString("en-GB");
}

/** Seconds between two times, or until now. */
export function seconds(from, to) {
  if (!from) return "–";
  const span = ((to ? new Date(to) : new Date()) - new Date(from)) / 1000;
  return span < 60 ? `${span.toFixed(1)} s` : `${Math.floor(span / 60)} min ${Math.round(span % 60)} s`;
}
