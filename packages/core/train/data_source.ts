/**
 * The order in which a training text is read.
 *
 * @module
 */

import { mixBits } from "../backend/init_normal.ts";
import type { TokenizedText } from "./training_text.ts";

/** Options of {@linkcode DataSource}. */
export interface DataSourceOptions {
  /** Tokens S of a sequence. */
  readonly seqTokens: number;
  /** Sequences B of a micro-batch. */
  readonly batch: number;
  /** Micro-batches of a step. */
  readonly accumulate: number;
  /** Seed of the order, u32. */
  readonly seed: number;
}

/**
 * Sequences of a text in a seeded order. The text is cut into windows that follow each other, and every window comes up
 * once before any comes up again. The order depends on the seed and the step alone, not on the number of ranks; a
 * further pass shuffles anew and cuts elsewhere.
 */
export class DataSource {
  readonly #text: TokenizedText;
  readonly #options: DataSourceOptions;
  #pass = -1;
  #order = new Uint32Array(0);
  #firstToken = 0;

  /**
   * @throws {RangeError} when the text is shorter than one sequence and the token that follows it
   */
  constructor(text: TokenizedText, options: DataSourceOptions) {
    const needed = options.seqTokens + 1;
    if (text.tokens.length < needed) {
      throw new RangeError(
        `Cannot train on sequences of ${options.seqTokens} tokens of ${text.name}: it has ${text.tokens.length} tokens, ` +
          `at least ${needed} are needed`,
      );
    }
    this.#text = text;
    this.#options = options;
  }

  /** Windows in one pass over the text. */
  get windows(): number {
    return Math.floor((this.#text.tokens.length - 1) / this.#options.seqTokens);
  }

  /**
   * The S + 1 tokens of one sequence: inputs are all but the last, labels all but the first.
   *
   * @param step training step from 0
   * @param microBatch micro-batch within the step
   * @param index sequence within the micro-batch
   */
  sequence(step: number, microBatch: number, index: number): Uint32Array {
    const { seqTokens, batch, accumulate } = this.#options;
    const number = (step * accumulate + microBatch) * batch + index;
    this.#shuffle(Math.floor(number / this.windows));
    const start = this.#firstToken + this.#order[number % this.windows] * seqTokens;
    return Uint32Array.from(this.#text.tokens.subarray(start, start + seqTokens + 1));
  }

  /** Draws the order and the first token of a pass (Fisher–Yates). */
  #shuffle(pass: number): void {
    if (pass === this.#pass) return;
    this.#pass = pass;
    const { seed, seqTokens } = this.#options;
    const key = mixBits(mixBits(seed ^ 0x6d6f6279) ^ pass);
    const order = Uint32Array.from({ length: this.windows }, (_, i) => i);
    for (let i = order.length - 1; i > 0; i--) {
      const other = below(i + 1, key, i);
      [order[i], order[other]] = [order[other], order[i]];
    }
    this.#order = order;
    this.#firstToken = below(this.#text.tokens.length - this.windows * seqTokens, key, 0);
  }
}

/** A hashed number from 0 to `limit` − 1. */
function below(limit: number, key: number, counter: number): number {
  return Math.floor(mixBits(key ^ mixBits(counter + 1)) / 2 ** 32 * limit);
}
