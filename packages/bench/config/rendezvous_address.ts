/**
 * The address at which the ranks of several hosts meet.
 *
 * @module
 */

/** Parts of the address. */
export interface RendezvousAddress {
  /** Whether links are encrypted. */
  readonly secure: boolean;
  /** Name or address of the host, without brackets. */
  readonly host: string;
  /** Port. */
  readonly port: number;
}

/** Reads `ws://HOST:PORT` or `wss://HOST:PORT`; undefined for anything else, such as an address without a port. */
export function parseRendezvous(text: string): RendezvousAddress | undefined {
  const [, scheme, host, digits] = text.match(/^(wss?):\/\/(\[[0-9a-f:.]+\]|[\w.-]+):(\d{1,5})\/?$/i) ?? [];
  const port = Number(digits);
  if (!(port >= 1 && port <= 65535) || !URL.canParse(text)) return undefined;
  return { secure: scheme.toLowerCase() === "wss", host: host.replace(/^\[|\]$/g, ""), port };
}
