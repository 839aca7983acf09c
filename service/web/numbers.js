// Number formatting. Certified values are rounded down, bounds and distances up, measurements to nearest.

const DIGITS = 6;

/** Format to `digits` significant digits, rounding in `direction`: -1 (down), 1 (up) or 0 (to nearest). */
function rounded(value, digits, direction) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "not a number";
  if (value === 0) return "0";
  let text = value.toPrecision(digits);
  if (direction && (Number(text) - value) * direction < 0) {
    const unit = 10 ** (Math.floor(Math.log10(Math.abs(value))) - digits + 1);
    text = (Number(text) + direction * unit).toPrecision(digits);
  }
  return typeset(text, direction === 0);
}

/** Typeset the minus sign and the exponent. `trim` drops trailing zeros; directed rounding keeps them, so that columns align. */
function typeset(text, trim) {
  let [digits, exponent] = text.split("e");
  if (trim && digits.includes(".")) digits = digits.replace(/\.?0+$/, "");
  return (exponent ? `${digits}·10${superscript(Number(exponent))}` : digits).replace("-", "−");
}

const superscript = (number) => String(number).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);

/** Format a certified radius or a margin: never more than the value. */
export const down = (value, digits = DIGITS) => rounded(value, digits, -1);
/** Format an upper bound or a distance found: never less than the value. */
export const up = (value, digits = DIGITS) => rounded(value, digits, 1);
/** Format a measurement. */
export const near = (value, digits = DIGITS) => rounded(value, digits, 0);
/** Format a measured share as a percentage. */
export const percent = (share, digits = 1) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(digits)}%`);
/** Format a certified share as a percentage: never more than the share, but for the rounding of the division that gave it. */
export const percentDown = (share, digits = 1) => percent(share && Math.floor(Number((share * 10 ** (digits + 2)).toPrecision(12))) / 10 ** (digits + 2), digits);
/** Format a count with grouped thousands. */
export const count = (value) => value.toLocaleString("en").replaceAll(",", " ");

const NORMS = { 1: "l1", 2: "l2", inf: "linf" };
/** Return the displayed name of a norm of the API. */
export const norm = (name) => NORMS[name] ?? name;

/** Format a time as "14:03:07", preceded by the date unless it is today. */
export function moment(text) {
  if (!text) return "–";
  const time = new Date(text);
  return time.toDateString() === new Date().toDateString() ? time.toLocaleTimeString("en-GB") : time.toLocaleString("en-GB");
}

/** Format the duration between two times, or since the first. */
export function seconds(from, to) {
  if (!from) return "–";
  const span = ((to ? new Date(to) : new Date()) - new Date(from)) / 1000;
  return span < 60 ? `${span.toFixed(1)} s` : `${Math.floor(span / 60)} min ${Math.round(span % 60)} s`;
}
