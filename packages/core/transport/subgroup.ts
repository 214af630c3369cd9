/**
 * A process group over some ranks of another.
 *
 * @module
 */
import type { HostMemory } from "../memory/host_memory.ts";
import { ExchangeGroup } from "./exchange_group.ts";
import { labelBytes } from "./frame.ts";
import type { ProcessGroup } from "./process_group.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/**
 * The group of some ranks of `group`, numbered in the order of `ranks`; this rank must be one of them. All of its traffic
 * goes through `group` and is counted there too, its step is that of `group`, and a failure or an abort is that of
 * `group`. Labels carry the ranks, so that exchanges of different subgroups never mix; two subgroups of the same ranks in
 * the same order do. Closing it does nothing, as the links are those of `group`.
 *
 * @throws {RangeError} If a rank is named twice or is none of the group, or if this rank is not among them
 */
export function subgroup(group: ProcessGroup, ranks: readonly number[]): ProcessGroup {
  const isRank = (rank: number) => Number.isInteger(rank) && rank >= 0 && rank < group.size;
  if (!ranks.every(isRank) || new Set(ranks).size !== ranks.length || !ranks.includes(group.rank)) {
    throw new RangeError(
      `Cannot make a group of ranks ${ranks.join(", ")} on rank ${group.rank}: ` +
        `wanted different ranks from 0 to ${group.size - 1}, this one among them`,
    );
  }
  return new Subgroup(group, ranks);
}

class Subgroup extends ExchangeGroup {
  readonly #group: ProcessGroup;
  readonly #ranks: readonly number[];

  constructor(group: ProcessGroup, ranks: readonly number[]) {
    super(ranks.indexOf(group.rank), ranks.length);
    this.#group = group;
    this.#ranks = [...ranks];
  }

  get step(): number {
    return this.#group.step;
  }

  set step(step: number) {
    this.#group.step = step;
  }

  get signal(): AbortSignal {
    return this.#group.signal;
  }

  get memory(): HostMemory {
    return this.#group.memory;
  }

  async send(to: number, data: Uint8Array, label: string): Promise<void> {
    this.#checkPeer(to, "send");
    await this.sendMessage(to, data, this.#labelOf(label));
  }

  async recv(from: number, label: string): Promise<Bytes> {
    this.#checkPeer(from, "receive");
    return await this.recvMessage(from, this.#labelOf(label));
  }

  abort(reason: Error): void {
    this.#group.abort(reason);
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  protected async sendMessage(to: number, data: Uint8Array, label: string): Promise<void> {
    await this.#group.send(this.#ranks[to], data, label);
    this.counter.sent(data.length); // once taken, so that what the group refuses does not count
  }

  protected async recvMessage(from: number, label: string): Promise<Bytes> {
    const data = await this.#group.recv(this.#ranks[from], label);
    this.counter.received(data.length);
    return data;
  }

  protected labelCollective(name: string, call: number): string {
    return `${name} ${call} of ranks ${this.#ranks.join()}`;
  }

  #labelOf(label: string): string {
    if (labelBytes(label) === 0) throw new RangeError("Cannot use a label of 0 bytes: wanted 1 or more");
    return `${label} among ranks ${this.#ranks.join()}`;
  }

  #checkPeer(rank: number, action: string): void {
    if (rank !== this.rank && this.#ranks[rank] !== undefined) return;
    throw new RangeError(
      `Cannot ${action} between rank ${this.rank} and rank ${rank}: wanted another rank from 0 to ${this.size - 1}`,
    );
  }
}
