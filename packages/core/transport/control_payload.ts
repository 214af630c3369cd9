/**
 * What hello and abort frames say, as JSON that is checked field by field when it comes in.
 *
 * @module
 */
import { FrameError } from "./errors.ts";

/** What a connecting rank says of itself. */
export interface Hello {
  /** Its rank. */
  readonly rank: number;
  /** Number of ranks it was started with. */
  readonly size: number;
  /** The run's token. */
  readonly token: string;
  /** Where it listens for higher ranks, unless it is the highest. */
  readonly url?: string;
  /** What it was started with, of what all ranks have to agree on. */
  readonly settings?: Readonly<Record<string, string>>;
}

/** What an accepting rank answers: the addresses by rank from the rendezvous, none from other ranks. */
export interface Welcome {
  /** `addresses[r]` is where rank r listens; empty where it is not needed. */
  readonly addresses: readonly string[];
}

/** Why a run, or an attempt to join it, ends. */
export interface AbortNotice {
  /** Rank that the first error is about. */
  readonly origin: number;
  /** The error, for a person to read. */
  readonly detail: string;
  /** Whether the sender never took the receiver in. */
  readonly refused: boolean;
}

const MAX_CONTROL_BYTES = 64 * 1024;
const MAX_DETAIL_CHARACTERS = 8 * 1024;
const MAX_URL_CHARACTERS = 512;

/** Encodes what a connecting rank says of itself. */
export function encodeHello(hello: Hello): Uint8Array<ArrayBuffer> {
  return encodeJson(hello);
}

/**
 * Reads the payload of a connecting rank's hello frame.
 *
 * @throws {FrameError} If a field is missing or of the wrong type
 */
export function decodeHello(payload: Uint8Array): Hello {
  const { rank, size, token, url, settings } = decodeJson(payload, "hello");
  if (!Number.isSafeInteger(rank) || !Number.isSafeInteger(size) || typeof token !== "string") {
    throw new FrameError("Cannot read a hello: wanted an integer rank, an integer size and a token");
  }
  if (url !== undefined && !isAddress(url)) throw new FrameError("Cannot read a hello: its url is no ws:// address");
  if (settings !== undefined && !areSettings(settings)) {
    throw new FrameError("Cannot read a hello: wanted settings of text");
  }
  return { rank: rank as number, size: size as number, token, url, settings };
}

/** Encodes the answer to a hello. */
export function encodeWelcome(welcome: Welcome): Uint8Array<ArrayBuffer> {
  return encodeJson(welcome);
}

/**
 * Reads the payload of the hello frame that answers this rank's.
 *
 * @throws {FrameError} If it is no list of addresses
 */
export function decodeWelcome(payload: Uint8Array): Welcome {
  const { addresses } = decodeJson(payload, "welcome");
  if (!Array.isArray(addresses) || !addresses.every((address) => address === "" || isAddress(address))) {
    throw new FrameError("Cannot read a welcome: wanted a list of ws:// addresses");
  }
  return { addresses };
}

/** Encodes the reason of an abort; a very long one is cut. */
export function encodeAbort(notice: AbortNotice): Uint8Array<ArrayBuffer> {
  return encodeJson({ ...notice, detail: notice.detail.slice(0, MAX_DETAIL_CHARACTERS) });
}

/**
 * Reads the payload of an abort frame.
 *
 * @throws {FrameError} If a field is missing or of the wrong type
 */
export function decodeAbort(payload: Uint8Array): AbortNotice {
  const { origin, detail, refused } = decodeJson(payload, "abort");
  if (!Number.isSafeInteger(origin) || typeof detail !== "string" || typeof refused !== "boolean") {
    throw new FrameError("Cannot read an abort: wanted an integer origin, a detail and whether it refuses");
  }
  return { origin: origin as number, detail, refused };
}

function encodeJson(value: Hello | Welcome | AbortNotice): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(JSON.stringify(value));
}

function decodeJson(payload: Uint8Array, what: string): Record<string, unknown> {
  if (payload.length > MAX_CONTROL_BYTES) {
    throw new FrameError(`Cannot read a ${what} of ${payload.length} bytes: the limit is ${MAX_CONTROL_BYTES}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
  } catch (cause) {
    throw new FrameError(`Cannot read a ${what}: it is not JSON`, { cause });
  }
  if (typeof value !== "object" || value === null) throw new FrameError(`Cannot read a ${what}: it is not an object`);
  return value as Record<string, unknown>;
}

function isAddress(value: unknown): value is string {
  return typeof value === "string" && value.length <= MAX_URL_CHARACTERS && /^wss?:/.test(value) && URL.canParse(value);
}

function areSettings(value: unknown): value is Record<string, string> {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.values(value).every((setting) => typeof setting === "string");
}
