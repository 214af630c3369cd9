/**
 * Numbers as people read them.
 *
 * @module
 */

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** Bytes in the unit that keeps the number, as it is written, below 1024, such as `1.50 GiB`. */
export function formatBytes(bytes: number): string {
  let unit = 0;
  while (bytes >= 1023.5 && unit < BYTE_UNITS.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return `${unit === 0 ? bytes : significant(bytes, 3)} ${BYTE_UNITS[unit]}`;
}

/** A count with separators, such as `8,192`. */
export function formatCount(count: number): string {
  return Math.round(count).toLocaleString("en-US");
}

/** Tokens per second: whole numbers, with decimals below 100. */
export function formatRate(rate: number): string {
  return rate >= 100 ? formatCount(rate) : significant(rate, 3);
}

/** A number of things, such as `1 step` and `8 steps`. */
export function formatNumberOf(count: number, thing: string, things = `${thing}s`): string {
  return `${formatCount(count)} ${count === 1 ? thing : things}`;
}

/** Milliseconds: whole from 100 on, and down to a microsecond. */
export function formatMs(ms: number): string {
  if (ms >= 100) return `${formatCount(ms)} ms`;
  return `${ms > 0 && ms < 0.1 ? ms.toFixed(3) : significant(ms, 3)} ms`;
}

/** A span of time in the two largest units, such as `1 min 20 s`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
}

/** A part of 1 as a percentage. */
export function formatPercent(part: number): string {
  return `${(part * 100).toFixed(1)}%`;
}

/** A small error, such as `3.1e-7`. */
export function formatError(error: number): string {
  return error === 0 ? "0" : Number.isFinite(error) ? error.toExponential(1) : "not finite";
}

/** A number of parameters, such as `124M`. */
export function formatParameters(count: number): string {
  if (count >= 1e9) return `${significant(count / 1e9, 3)}B`;
  return count >= 1e6 ? `${significant(count / 1e6, 3)}M` : `${significant(count / 1e3, 3)}K`;
}

/** A number to that many digits, without an exponent. */
function significant(value: number, digits: number): string {
  if (value === 0) return "0";
  const rounded = Math.abs(Number(value.toPrecision(digits)));
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(rounded)));
  return value.toFixed(Math.min(20, decimals));
}
