/**
 * Finding a machine that may not be there yet.
 *
 * @module
 */

import { lookup } from "node:dns/promises";

/** Milliseconds between two attempts. */
const RETRY_MS = 250;

/** No connection was made to an address. */
export class UnreachableError extends Error {
  /** Name of the class. */
  override readonly name = "UnreachableError";
  /** Whether trying again cannot help. */
  readonly final: boolean;

  /** Says that nobody answers at the address, and the reason that the system gives. */
  constructor(url: string, reason: string, { final = false, cause }: { final?: boolean; cause?: unknown } = {}) {
    super(`nobody answers at ${url}: ${reason}`, { cause });
    this.final = final;
  }
}

/** Options of {@linkcode untilReached}. */
export interface ReachOptions {
  /** Ends the attempts, with its reason as the error. */
  readonly signal: AbortSignal;
  /** Told why an attempt has failed, before the next. */
  readonly onRetry: (reason: UnreachableError) => void;
}

/** Runs `connect` until it does not fail by an {@linkcode UnreachableError}, or by one that is final. */
export async function untilReached<T>(
  connect: () => Promise<T>,
  { signal, onRetry }: ReachOptions,
): Promise<T> {
  while (true) {
    signal.throwIfAborted();
    try {
      return await connect();
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof UnreachableError) || error.final) throw error;
      onRetry(error);
    }
    await pause(signal);
  }
}

/**
 * The address of this machine from which it reaches the host and port of a URL.
 *
 * @throws {UnreachableError} If nobody listens there
 */
export async function ownAddressTowards(url: string, signal: AbortSignal): Promise<string> {
  const { hostname, port, protocol } = new URL(url);
  const target = {
    hostname: hostname.replace(/^\[|\]$/g, ""),
    port: Number(port) || (protocol === "wss:" ? 443 : 80),
  };
  try {
    using connection = await Deno.connect({ ...target, signal });
    return connection.localAddr.hostname;
  } catch (cause) {
    throw new UnreachableError(url, (cause as Error).message, { cause });
  }
}

/**
 * Whether the host of a URL is this machine, which TCP then reaches over the loopback, whatever address it is given. Where
 * the system does not say, it is taken to be.
 */
export async function isThisMachine(url: string): Promise<boolean> {
  const hostname = new URL(url).hostname.replace(/^\[|\]$/g, "");
  const isAddress = /^[\d.]+$|:/.test(hostname);
  try {
    const address = isAddress ? hostname : (await lookup(hostname)).address;
    return isOwnAddress(address);
  } catch {
    return true;
  }
}

/** Whether an address is one of this machine's; where the process may not ask, it is taken to be. */
export function isOwnAddress(address: string): boolean {
  if (address.startsWith("127.")) return true;
  try {
    return Deno.networkInterfaces().some((own) => own.address === address);
  } catch {
    return true;
  }
}

/** Whether a host to listen at stands for all addresses of the machine, so that nobody can connect to it by that name. */
export function isUnspecified(host: string): boolean {
  return host === "0.0.0.0" || host === "::";
}

async function pause(signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, RETRY_MS);
  const stop = () => resolve();
  signal.addEventListener("abort", stop);
  await promise;
  signal.removeEventListener("abort", stop);
  clearTimeout(timer);
}
