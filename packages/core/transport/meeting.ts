/**
 * One rank's part in a rendezvous: whom it takes in, whom it connects to, and what it still waits for.
 *
 * @module
 */
import type { ConnectOptions } from "./connect_options.ts";
import { encodeWelcome, type Hello, type Welcome } from "./control_payload.ts";
import { PeerError, type PeerFailure, type PeerOperation } from "./errors.ts";
import { encodeControlFrame } from "./frame.ts";
import { acceptHello, joinPeer } from "./handshake.ts";
import { LinkedGroup } from "./linked_group.ts";
import { ListenError, listenForPeers, type PeerListener } from "./listener.ts";
import { PeerLink } from "./peer_link.ts";
import type { ProcessGroup } from "./process_group.ts";
import {
  isOwnAddress,
  isThisMachine,
  isUnspecified,
  ownAddressTowards,
  UnreachableError,
  untilReached,
} from "./reach.ts";
import { describeDifference } from "./settings.ts";

/** The operation that every failure of a rendezvous stops. */
export const RENDEZVOUS: PeerOperation = { name: "rendezvous", step: 0 };

/** One rank's part in a rendezvous. */
export class Meeting {
  readonly #options: ConnectOptions;
  readonly #timeoutMs: number;
  readonly #links: (PeerLink | undefined)[];
  readonly #guests = new Map<number, { hello: Hello; socket: WebSocket }>();
  readonly #complete = Promise.withResolvers<void>();
  readonly #controller = new AbortController();
  #listener: PeerListener | undefined;
  #url: string | undefined;
  #waitingFor = "";
  #lastRetry = "";
  #hasReachedZero = false;

  /** @param timeoutMs silence after which a peer counts as stopped */
  constructor(options: ConnectOptions, timeoutMs: number) {
    this.#options = options;
    this.#timeoutMs = timeoutMs;
    this.#links = new Array(options.size).fill(undefined);
    this.#complete.promise.catch(() => {});
    this.#checkComplete();
  }

  /** Where others reach this rank, if it listens. */
  get url(): string | undefined {
    return this.#url;
  }

  /** Resolves once all higher ranks have come; rejects once the rendezvous has failed. */
  get complete(): Promise<void> {
    return this.#complete.promise;
  }

  /**
   * Listens for the higher ranks.
   *
   * @throws {ListenError} If it cannot
   */
  async listen(): Promise<void> {
    const { rank, port = 0, tls, advertise } = this.#options;
    const { host, reachable } = await this.#findAddress();
    const onSocket = (socket: WebSocket, from: string) =>
      acceptHello(socket, { rank, admit: (hello) => this.#admit(hello, socket, isOwnAddress(from)) });
    try {
      this.#listener = listenForPeers({ host, port, tls, onSocket });
    } catch (cause) {
      throw new ListenError(`Cannot listen at ${host}, port ${port}: ${(cause as Error).message}`, { cause });
    }
    const name = reachable.includes(":") ? `[${reachable}]` : reachable;
    this.#url = advertise ?? `${tls ? "wss" : "ws"}://${name}:${this.#listener.port}`;
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

  /** Ends the rendezvous by the failure of a peer. */
  fail(failure: PeerFailure): void {
    this.stop(new PeerError(failure, RENDEZVOUS));
  }

  /** Ends the rendezvous, and every attempt to connect. */
  stop(error: Error): void {
    this.#controller.abort(error);
    this.#complete.reject(error);
  }

  /** The failure of the ranks that have not come in that time. */
  describeMissing(limitMs: number): PeerFailure {
    if (this.#hasReachedZero && !this.#links[0]) {
      const detail = `it still waits for other ranks after ${limitMs / 1000} s`;
      return { peer: 0, kind: "timeout", detail, origin: 0, happened: "was not ready" };
    }
    const missing = this.#missing;
    const which = `${missing.length} of ${this.#options.size} ranks (${missing.join(", ")})`;
    const detail = `${which} did not join in ${limitMs / 1000} s${this.#lastRetry && `: ${this.#lastRetry}`}`;
    return { peer: missing[0], kind: "timeout", detail, origin: missing[0], happened: "did not answer" };
  }

  /** The group of the links so far; whoever knocks from here on is sent away. */
  formGroup(activity?: string): ProcessGroup {
    const listener = this.#listener;
    listener?.refuse();
    const release = () => listener?.shutdown();
    return new LinkedGroup({ rank: this.#options.rank, links: this.#links, activity, release });
  }

  /** Tells which ranks have not come. */
  tellMissing(): void {
    const missing = this.#missing;
    if (this.#options.rank > 0 || missing.length === 0) return;
    this.#tellWaiting(`${missing.length === 1 ? "rank" : "ranks"} ${missing.join(", ")} to join at ${this.#url}`);
  }

  get #missing(): number[] {
    return this.#links.flatMap((link, peer) => link || peer === this.#options.rank ? [] : [peer]);
  }

  /** The address to listen at, and the one by which others reach it. */
  async #findAddress(): Promise<{ host: string; reachable: string }> {
    const { rank, rendezvous, host } = this.#options;
    if (host !== undefined && !isUnspecified(host)) return { host, reachable: host };
    if (rank === 0) return { host: host ?? "127.0.0.1", reachable: "127.0.0.1" };
    const reachable = await this.#reach(() => ownAddressTowards(rendezvous!, this.#controller.signal));
    return { host: host ?? reachable, reachable };
  }

  async #joinPeer(peer: number, url: string): Promise<Welcome> {
    const { rank, size, token, tls, settings } = this.#options;
    const local = await isThisMachine(url);
    const join = () =>
      joinPeer(url, {
        peer,
        hello: { rank, size, token, url: this.url, ...(peer === 0 && { settings }) },
        signal: this.#controller.signal,
        onHello: () => {
          if (peer === 0) this.#hasReachedZero = true;
        },
        trusted: tls?.certificate,
        adopt: (socket, welcome) => {
          this.#link(peer, socket, local);
          return welcome;
        },
      });
    return peer === 0 ? await this.#reach(join) : await naming(peer, join);
  }

  /** Connects to rank 0, again and again if it may not be there yet. */
  #reach<T>(connect: () => Promise<T>): Promise<T> {
    if (!this.#options.retry) return naming(0, connect);
    const onRetry = ({ message }: UnreachableError) => {
      this.#lastRetry = message;
      this.#tellWaiting(`rank 0: ${message}`);
    };
    return naming(0, () => untilReached(connect, { signal: this.#controller.signal, onRetry }));
  }

  #tellWaiting(what: string): void {
    if (what !== this.#waitingFor) this.#options.onWaiting?.(what);
    this.#waitingFor = what;
  }

  /** Takes a higher rank in, or says why not. */
  #admit(hello: Hello, socket: WebSocket, local: boolean): string | undefined {
    const { rank, size, token, settings = {} } = this.#options;
    if (!equalTokens(hello.token, token)) return "the token is not the token of this run";
    if (hello.size !== size) return `it was started as one of ${hello.size} ranks, and this run has ${size}`;
    if (hello.rank <= rank || hello.rank >= size) return `rank ${hello.rank} is none of ${rank + 1} to ${size - 1}`;
    const difference = rank === 0 && describeDifference(hello.settings ?? {}, settings);
    if (difference) {
      this.#tellWaiting(`rank ${hello.rank}, which was refused: ${difference}`);
      return difference;
    }
    if (this.#controller.signal.aborted) return "the rendezvous has failed";
    if (this.#links[hello.rank]) return `rank ${hello.rank} has joined already`;
    if (hello.rank < size - 1 && !hello.url) return `rank ${hello.rank} does not say where it listens`;
    this.#link(hello.rank, socket, local);
    this.#guests.set(hello.rank, { hello, socket });
    if (rank > 0) welcome(socket, []);
    this.tellMissing();
    this.#checkComplete();
    return undefined;
  }

  #link(peer: number, socket: WebSocket, local: boolean): void {
    const { rank, tls } = this.#options;
    const options = { peer, timeoutMs: this.#timeoutMs, accepted: peer > rank, encrypted: tls !== undefined, local };
    const link = new PeerLink(socket, options);
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

/** What the call comes to; a peer that is not there is a peer's error. */
async function naming<T>(peer: number, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof UnreachableError)) throw error;
    throw new PeerError({ peer, kind: "closed", detail: error.message, origin: peer }, RENDEZVOUS);
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
