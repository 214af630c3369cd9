/**
 * Errors of the device: WebGPU reports them later than the call that caused them, so the first one is remembered with
 * what caused it and thrown by the next call that can.
 *
 * @module
 */

/** No GPU driver offers an adapter to WebGPU. */
export class NoGpuError extends Error {
  override readonly name = "NoGpuError";
}

/** The device refused or failed work, ran out of memory, or was lost. The backend cannot be used any further. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";

  /**
   * @param message what could not be done and why
   * @param kernel kernel at fault, where one is known
   */
  constructor(message: string, readonly kernel?: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** What is being done while an error may come up. */
export interface Attempt {
  /** What follows "Cannot" in the message, with the sizes in it; called only when there is an error. */
  readonly what: () => string;
  /** Kernel that it is done for. */
  readonly kernel?: string;
}

/** The error scopes of one device and the first error they caught. */
export class DeviceErrors {
  readonly #device: GPUDevice;
  readonly #pending = new Set<Promise<void>>();
  #first?: DeviceError;
  #lastWork: () => string = () => "before any work was submitted";
  #lost = false;
  #closed = false;

  /** @param device device whose errors, also those outside of scopes, are caught from here on */
  constructor(device: GPUDevice) {
    this.#device = device;
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      const { error } = event as GPUUncapturedErrorEvent;
      this.record(new DeviceError(`Cannot go on, the device reports ${reason(error)} (${this.#lastWork()})`));
    });
    device.lost.then(({ message }) => {
      this.#lost = true;
      if (this.#closed) return;
      this.record(new DeviceError(`Cannot go on, the device was lost: ${message} (${this.#lastWork()})`));
    });
  }

  /** Whether {@linkcode DeviceErrors.close} was called. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Whether the device is gone. */
  get lost(): boolean {
    return this.#lost;
  }

  /** Runs `action`, which calls WebGPU, and remembers the error it causes, if any. */
  guard<T>(attempt: Attempt, action: () => T): T {
    const filters = ["internal", "out-of-memory", "validation"] as const;
    for (const filter of filters) this.#device.pushErrorScope(filter);
    try {
      return action();
    } finally {
      this.#track(Promise.all(filters.map(() => this.#device.popErrorScope())), attempt);
    }
  }

  /** Remembers an error unless an earlier one is known. */
  record(error: DeviceError): void {
    this.#first ??= error;
  }

  /** Notes what the device works on, for errors that name no cause themselves. */
  noteWork(describe: () => string): void {
    this.#lastWork = describe;
  }

  /**
   * Throws what is known to have failed.
   *
   * @throws {DeviceError}
   */
  check(): void {
    if (this.#closed) throw new DeviceError("Cannot use a backend that was disposed of");
    if (this.#first) throw new DeviceError(this.#first.message, this.#first.kernel, { cause: this.#first });
  }

  /**
   * Waits until all scopes have reported, then throws what has failed.
   *
   * @throws {DeviceError}
   */
  async settle(): Promise<void> {
    while (this.#pending.size > 0) await Promise.all(this.#pending);
    this.check();
  }

  /** Runs when the first error, if any, must be completed by details that come later. */
  await(work: Promise<void>): void {
    const tracked = work.finally(() => this.#pending.delete(tracked));
    this.#pending.add(tracked);
  }

  /** Stops reporting, since the device is about to be destroyed on purpose. */
  close(): void {
    this.#closed = true;
  }

  #track(reports: Promise<(GPUError | null)[]>, attempt: Attempt): void {
    this.await(reports.then((errors) => {
      const error = errors.find((each) => each !== null);
      if (!error) return;
      this.record(new DeviceError(`Cannot ${attempt.what()}: ${reason(error)}`, attempt.kernel));
    }, (cause) => {
      // A lost device rejects the scopes; the promise of the loss says more.
      if (!this.#closed) this.record(new DeviceError(`Cannot ${attempt.what()}: ${cause}`, attempt.kernel));
    }));
  }
}

function reason(error: GPUError): string {
  const text = error.message.trim().replace(/\.$/, "");
  if (error.constructor.name === "GPUOutOfMemoryError") return `out of memory${text ? ` (${text})` : ""}`;
  return text || error.constructor.name;
}
