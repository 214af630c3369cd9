/**
 * What a rank is told so that it can join a run.
 *
 * @module
 */

/** A certificate by which the ranks of a run know one another (wss). */
export interface TlsIdentity {
  /** Chain in PEM. A rank shows it where it listens, and trusts it, besides the system's, where it connects. */
  readonly certificate: string;
  /** Private key of the first certificate, in PEM. */
  readonly key: string;
}

/** Options of `connectProcessGroup`. All but the callbacks are plain data. */
export interface ConnectOptions {
  /** This process's rank, from 0 to `size - 1`. */
  readonly rank: number;
  /** Number of ranks. */
  readonly size: number;
  /** Secret of the run, the same for all its ranks. */
  readonly token: string;
  /** Address of rank 0, for the others. */
  readonly rendezvous?: string;
  /**
   * Whether rank 0 may not be listening yet: connecting to it is then tried again until the timeout. Without it an
   * address where nobody listens is an error at once.
   */
  readonly retry?: boolean;
  /**
   * Address of this machine to listen at. By default 127.0.0.1 on rank 0, and on others the one from which they reach
   * rank 0. With 0.0.0.0 or ::, all addresses, the others are told that one, too.
   */
  readonly host?: string;
  /** Port to listen at; a free one by default. */
  readonly port?: number;
  /** Address that the other ranks are told instead, where the network translates addresses or ports. */
  readonly advertise?: string;
  /** Encrypts every link; addresses are then wss://. */
  readonly tls?: TlsIdentity;
  /** What all ranks have to agree on, by name. A rank that differs from rank 0 is refused with the names. */
  readonly settings?: Readonly<Record<string, string>>;
  /**
   * Milliseconds of a peer's silence while it is waited for; twice as many for a peer that lives but sends nothing.
   * 60 000 by default. It must exceed half the longest time between two messages of a rank,
   * and, unless its group is in a worker, the longest time in which it computes without yielding to its event loop.
   * Links are taken to carry a megabyte a second at least.
   */
  readonly timeoutMs?: number;
  /** Milliseconds until all ranks have to have met; `timeoutMs` by default. */
  readonly rendezvousMs?: number;
  /** Told rank 0's address, for the other ranks, as soon as it listens. Not called in a run of one rank. */
  readonly onListening?: (url: string) => void;
  /** Told, for a person to read, what the rendezvous waits for, whenever that changes. */
  readonly onWaiting?: (what: string) => void;
}

/** Milliseconds of {@linkcode ConnectOptions.timeoutMs} when it is left out. */
export const DEFAULT_TIMEOUT_MS = 60_000;

/**
 * Refuses options that make no sense.
 *
 * @throws {RangeError} If size, rank, port or timeout are out of range
 * @throws {TypeError} If the token is empty, or an address is missing, none, or does not go with `tls`
 */
export function checkConnectOptions(options: ConnectOptions): void {
  const { rank, size, token, rendezvous, port = 0, advertise, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
  const { rendezvousMs = timeoutMs } = options;
  if (!Number.isInteger(size) || size < 1) throw new RangeError(`Cannot connect ${size} ranks: wanted 1 or more`);
  if (!Number.isInteger(rank) || rank < 0 || rank >= size) {
    throw new RangeError(`Cannot connect rank ${rank} of ${size}: wanted 0 to ${size - 1}`);
  }
  for (const ms of [timeoutMs, rendezvousMs]) {
    if (!(ms > 0 && ms < 2 ** 31)) throw new RangeError(`Cannot wait for ${ms} ms: wanted 1 to 2^31 - 1`);
  }
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new RangeError(`Cannot listen at port ${port}: wanted 0 to 65535`);
  }
  if (token === "") throw new TypeError("Cannot connect with an empty token");
  const scheme = options.tls ? "wss:" : "ws:";
  if (rank > 0 && !isAddress(rendezvous, scheme)) {
    throw new TypeError(`Cannot connect rank ${rank} to ${rendezvous}: wanted the ${scheme}// address of rank 0`);
  }
  if (advertise !== undefined && !isAddress(advertise, scheme)) {
    throw new TypeError(`Cannot advertise ${advertise}: wanted a ${scheme}// address`);
  }
}

function isAddress(text: string | undefined, scheme: string): boolean {
  return text !== undefined && URL.canParse(text) && new URL(text).protocol === scheme;
}
