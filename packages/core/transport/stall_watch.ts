/**
 * Tells a stopped peer from a slow one.
 *
 * @module
 */

/** What a {@linkcode StallWatch} calls. */
export interface StallWatchOptions {
  /** Milliseconds without a sign of life after which a peer counts as stopped. */
  readonly timeoutMs: number;
  /** Asks the peer for a sign of life; called every quarter of the timeout while it is silent. */
  readonly probe?: () => void;
  /** Called once: `silent` if no byte came for the timeout, `fruitless` if only signs of life came for twice as long. */
  readonly stalled: (how: "silent" | "fruitless") => void;
}

/**
 * Counts the time that is spent waiting for a peer, between the outermost `begin` and `end`.
 *
 * A peer that answers probes but sends nothing may itself be waiting for a third one that has stopped. It is therefore
 * given twice the timeout, in which whoever waits for the stopped peer finds it and ends the run with the right culprit.
 *
 * Time is counted in ticks of bounded length, so that this process blocking its own event loop, with the peer's bytes
 * unread in the socket, is not taken for the peer's silence.
 */
export class StallWatch {
  readonly #timeoutMs: number;
  readonly #tickMs: number;
  readonly #probe: (() => void) | undefined;
  readonly #stalled: (how: "silent" | "fruitless") => void;
  #waits = 0;
  #silentMs = 0;
  #fruitlessMs = 0;
  #probes = 0;
  #lastTickMs = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Creates a watch that is at rest. */
  constructor({ timeoutMs, probe, stalled }: StallWatchOptions) {
    this.#timeoutMs = timeoutMs;
    this.#tickMs = Math.min(1000, Math.max(5, timeoutMs / 20));
    this.#probe = probe;
    this.#stalled = stalled;
  }

  /** One more operation waits for the peer. */
  begin(): void {
    this.#waits += 1;
    if (this.#waits > 1) return;
    this.progress();
    this.#lastTickMs = performance.now();
    this.#schedule();
  }

  /** One operation less waits for the peer. */
  end(): void {
    this.#waits -= 1;
    if (this.#waits === 0) clearTimeout(this.#timer);
  }

  /** The peer lives. */
  alive(): void {
    this.#silentMs = 0;
    this.#probes = 0;
  }

  /** The peer sent or took bytes of a message. */
  progress(): void {
    this.alive();
    this.#fruitlessMs = 0;
  }

  #schedule(): void {
    this.#timer = setTimeout(() => this.#tick(), this.#tickMs);
  }

  #tick(): void {
    const nowMs = performance.now();
    const countedMs = Math.min(nowMs - this.#lastTickMs, 2 * this.#tickMs);
    this.#lastTickMs = nowMs;
    this.#silentMs += countedMs;
    this.#fruitlessMs += countedMs;
    if (this.#silentMs >= this.#timeoutMs) return this.#stalled("silent");
    if (this.#fruitlessMs >= 2 * this.#timeoutMs) return this.#stalled("fruitless");
    if (this.#silentMs >= (this.#probes + 1) * this.#timeoutMs / 4) {
      this.#probes += 1;
      this.#probe?.();
    }
    this.#schedule();
  }
}
