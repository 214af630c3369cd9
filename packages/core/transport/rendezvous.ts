/**
 * How the processes of a run find one another. Rank 0 listens and is told where the others listen; once all have come it
 * sends everyone the table of addresses. Then every rank connects to the lower ones, so that each pair holds exactly one
 * WebSocket: to rank 0 it is the one of the rendezvous.
 *
 * @module
 */
import { encodeWelcome, type Hello } from "./control_payload.ts";
import { PeerError, type PeerFailure, type PeerOperation } from "./errors.ts";
import { encodeControlFrame } from "./frame.ts";
import { acceptHello, joinPeer } from "./handshake.ts";
import { LinkedGroup } from "./linked_group.ts";
import { listenForPeers, type PeerListener } from "./listener.ts";
import { PeerLink } from "./peer_link.ts";
import type { ProcessGroup } from "./process_group.ts";

/** Options of {@linkcode connectProcessGroup}. */
export interface ConnectOptions {
  /** This process's rank, from 0 to `size - 1`. */
  readonly rank: number;
  /** Number of ranks. */
  readonly size: number;
  /** Secret of the run, the same for all its ranks. */
  readonly token: string;
  /** Address that rank 0 reported; rank 0 itself needs none. */
  readonly rendezvous?: string;
  /** Address to listen at, by which the other ranks can reach this one. 127.0.0.1 by default. */
  readonly host?: string;
  /**
   * Milliseconds for the rendezvous, and later for a peer's silence while it is waited for; twice as many for a peer that
   * lives but sends nothing. 60 000 by default. It must exceed the longest time in which a rank computes without yielding
   * to its event loop, and half the longest time between two of its messages.
   */
  readonly timeoutMs?: number;
  /** Told rank 0's address, for the other ranks, as soon as it listens. Not called in a run of one rank. */
  readonly onListening?: (url: string) => void;
}

const RENDEZVOUS: PeerOperation = { name: "rendezvous", step: 0 };

/**
 * Joins the run and resolves once this rank is linked to every other.
 *
 * Connections with a wrong token, for another number of ranks, from a rank that is taken or out of range, or that speak
 * something else are refused with the reason and do not disturb the run.
 *
 * @throws {RangeError} If size, rank or timeout make no sense
 * @throws {TypeError} If the token is empty, or the address of the rendezvous is missing or none
 * @throws {PeerError} If this rank is refused, a rank leaves, or ranks do not come in time; the message names them
 */
export async function connectProcessGroup(options: ConnectOptions): Promise<ProcessGroup> {
  const { rank, size, timeoutMs = 60_000, onListening } = options;
  checkOptions(options, timeoutMs);
  const meeting = new Meeting(options, timeoutMs);
  // Rank 0 gives up first, and tells the others which ranks are missing before they begin to blame rank 0.
  const limitMs = rank === 0 ? timeoutMs : timeoutMs + Math.min(timeoutMs / 4, 5000);
  const timer = setTimeout(() => meeting.fail(meeting.describeMissing(limitMs)), limitMs);
  try {
    if (rank < size - 1) meeting.listen();
    if (rank === 0 && size > 1) onListening?.(meeting.url!);
    if (rank > 0) await meeting.join();
    await meeting.complete;
    return meeting.formGroup();
  } catch (error) {
    meeting.stop(error as Error);
    const group = meeting.formGroup(RENDEZVOUS.name);
    group.abort(error as Error);
    await group.close();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** One rank's part in a rendezvous. */
class Meeting {
  readonly #options: ConnectOptions;
  readonly #timeoutMs: number;
  readonly #links: (PeerLink | undefined)[];
  readonly #guests = new Map<number, { hello: Hello; socket: WebSocket }>();
  readonly #complete = Promise.withResolvers<void>();
  readonly #controller = new AbortController();
  #listener: PeerListener | undefined;

  constructor(options: ConnectOptions, timeoutMs: number) {
    this.#options = options;
    this.#timeoutMs = timeoutMs;
    this.#links = new Array(options.size).fill(undefined);
    this.#complete.promise.catch(() => {});
    this.#checkComplete();
  }

  /** Where this rank listens, if it does. */
  get url(): string | undefined {
    return this.#listener?.url;
  }

  /** Resolves once all higher ranks have come; rejects once the rendezvous has failed. */
  get complete(): Promise<void> {
    return this.#complete.promise;
  }

  listen(): void {
    const { rank, host = "127.0.0.1" } = this.#options;
    const admit = (hello: Hello, socket: WebSocket) => this.#admit(hello, socket);
    this.#listener = listenForPeers({ host, onSocket: (socket) => acceptHello(socket, { rank, admit }) });
  }

  /** Connects to rank 0, learns where the other ranks listen, and connects to the lower ones. */
  async join(): Promise<void> {
    const { rank, size, rendezvous } = this.#options;
    const { addresses } = await this.#joinPeer(0, rendezvous!);
    if (addresses.length !== size) {
      const detail = `it sent ${addresses.length} addresses, wanted ${size}`;
      throw new PeerError({ peer: 0, kind: "protocol", detail, origin: 0 }, RENDEZVOUS);
    }
    const lower = Array.from({ length: rank - 1 }, (_, index) => index + 1);
    await Promise.all(lower.map((peer) => this.#joinPeer(peer, addresses[peer])));
  }

  fail(failure: PeerFailure): void {
    this.stop(new PeerError(failure, RENDEZVOUS));
  }

  stop(error: Error): void {
    this.#controller.abort(error);
    this.#complete.reject(error);
  }

  describeMissing(limitMs: number): PeerFailure {
    const { rank, size } = this.#options;
    const missing = this.#links.flatMap((link, peer) => link || peer === rank ? [] : [peer]);
    const detail = `${missing.length} of ${size} ranks (${missing.join(", ")}) did not join in ${limitMs / 1000} s`;
    return { peer: missing[0], kind: "timeout", detail, origin: missing[0], happened: "did not answer" };
  }

  /** The group of the links so far; whoever knocks from here on is sent away. */
  formGroup(activity?: string): ProcessGroup {
    const listener = this.#listener;
    listener?.refuse();
    const release = () => listener?.shutdown();
    return new LinkedGroup({ rank: this.#options.rank, links: this.#links, activity, release });
  }

  async #joinPeer(peer: number, url: string): Promise<{ addresses: readonly string[] }> {
    const { rank, size, token } = this.#options;
    return await joinPeer(url, {
      peer,
      hello: { rank, size, token, url: this.url },
      signal: this.#controller.signal,
      adopt: (socket, welcome) => {
        this.#link(peer, socket);
        return welcome;
      },
    });
  }

  /** Takes a higher rank in, or says why not. */
  #admit(hello: Hello, socket: WebSocket): string | undefined {
    const { rank, size, token } = this.#options;
    if (!equalTokens(hello.token, token)) return "the token is not the token of this run";
    if (hello.size !== size) return `it was started as one of ${hello.size} ranks, and this run has ${size}`;
    if (hello.rank <= rank || hello.rank >= size) return `rank ${hello.rank} is none of ${rank + 1} to ${size - 1}`;
    if (this.#controller.signal.aborted) return "the rendezvous has failed";
    if (this.#links[hello.rank]) return `rank ${hello.rank} has joined already`;
    if (hello.rank < size - 1 && !hello.url) return `rank ${hello.rank} does not say where it listens`;
    this.#link(hello.rank, socket);
    this.#guests.set(hello.rank, { hello, socket });
    if (rank > 0) welcome(socket, []);
    this.#checkComplete();
    return undefined;
  }

  #link(peer: number, socket: WebSocket): void {
    const link = new PeerLink(socket, { peer, timeoutMs: this.#timeoutMs, accepted: peer > this.#options.rank });
    this.#links[peer] = link;
    link.onFailure((failure) => this.fail(failure));
  }

  #checkComplete(): void {
    const { rank, size } = this.#options;
    if (this.#guests.size < size - 1 - rank) return;
    if (rank === 0) {
      const addresses = Array.from({ length: size }, (_, peer) => this.#guests.get(peer)?.hello.url ?? "");
      for (const { socket } of this.#guests.values()) welcome(socket, addresses);
    }
    this.#complete.resolve();
  }
}

function welcome(socket: WebSocket, addresses: readonly string[]): void {
  socket.send(encodeControlFrame("hello", encodeWelcome({ addresses })));
}

/** Compares in a time that tells nothing about how much of the token is right. */
function equalTokens(given: string, wanted: string): boolean {
  const encoder = new TextEncoder();
  const left = encoder.encode(given);
  const right = encoder.encode(wanted);
  let difference = left.length ^ right.length;
  for (let index = 0; index < right.length; index++) difference |= right[index] ^ (left[index] ?? 0);
  return difference === 0;
}

function checkOptions({ rank, size, token, rendezvous }: ConnectOptions, timeoutMs: number): void {
  if (!Number.isInteger(size) || size < 1) throw new RangeError(`Cannot connect ${size} ranks: wanted 1 or more`);
  if (!Number.isInteger(rank) || rank < 0 || rank >= size) {
    throw new RangeError(`Cannot connect rank ${rank} of ${size}: wanted 0 to ${size - 1}`);
  }
  if (!(timeoutMs > 0 && timeoutMs < 2 ** 31)) {
    throw new RangeError(`Cannot wait for ${timeoutMs} ms: wanted 1 to 2^31 - 1`);
  }
  if (token === "") throw new TypeError("Cannot connect with an empty token");
  if (rank > 0 && (rendezvous === undefined || !/^wss?:/.test(rendezvous) || !URL.canParse(rendezvous))) {
    throw new TypeError(`Cannot connect rank ${rank} to ${rendezvous}: wanted the ws:// address of rank 0`);
  }
}
