/**
 * A rank's orders, from its stdin.
 *
 * @module
 */

/**
 * Reads lines of stdin, in order. When stdin ends, so does the process.
 *
 * @returns a function that resolves to the next line, as JSON
 */
export function readOrders(): () => Promise<unknown> {
  const arrived: string[] = [];
  let wake = () => {};
  // deno-lint-ignore no-undef
  const worker = new Worker(import.meta.resolve("./stdin_worker.ts"), { type: "module" });
  worker.onmessage = ({ data }: MessageEvent<string>) => {
    arrived.push(data);
    wake();
  };
  return async () => {
    while (arrived.length === 0) await new Promise<void>((resolve) => wake = resolve);
    return JSON.parse(arrived.shift()!);
  };
}
