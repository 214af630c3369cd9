/**
 * Where messages of one peer wait for their receivers, and receivers for their messages.
 *
 * @module
 */
import type { LabelledMessage } from "./message_assembler.ts";

type Message = Uint8Array<ArrayBuffer>;

/** First in, first out per label. */
export class Inbox {
  readonly #ready = new Map<string, Message[]>();
  readonly #waiting = new Map<string, PromiseWithResolvers<Message>[]>();

  /** Whether a message lies ready under the label. */
  has(label: string): boolean {
    return this.#ready.has(label);
  }

  /** Whether any receiver waits. */
  get awaited(): boolean {
    return this.#waiting.size > 0;
  }

  /** Labels of messages that nobody has asked for yet. */
  get unclaimed(): string[] {
    return [...this.#ready.keys()];
  }

  /** Hands a message to the first receiver under its label, or keeps it. */
  deliver({ label, data }: LabelledMessage): void {
    const receiver = shift(this.#waiting, label);
    if (receiver) receiver.resolve(data);
    else push(this.#ready, label, data);
  }

  /** Takes the next message under the label as soon as there is one. */
  take(label: string): Promise<Message> {
    const data = shift(this.#ready, label);
    if (data) return Promise.resolve(data);
    const receiver = Promise.withResolvers<Message>();
    push(this.#waiting, label, receiver);
    return receiver.promise;
  }

  /** Rejects every waiting receiver, and forgets the messages nobody asked for. */
  fail(error: Error): void {
    const receivers = [...this.#waiting.values()].flat();
    this.#waiting.clear();
    this.#ready.clear();
    for (const receiver of receivers) receiver.reject(error);
  }
}

/** Appends to a label's queue. */
function push<T>(queues: Map<string, T[]>, label: string, item: T): void {
  const queue = queues.get(label);
  if (queue) queue.push(item);
  else queues.set(label, [item]);
}

/** Takes the head of a label's queue, and drops empty queues: labels are unique to a step, so they would pile up. */
function shift<T>(queues: Map<string, T[]>, label: string): T | undefined {
  const queue = queues.get(label);
  const item = queue?.shift();
  if (queue?.length === 0) queues.delete(label);
  return item;
}
