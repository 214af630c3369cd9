/**
 * What a run shows while it works, on stderr.
 *
 * @module
 */

import type { StepReport } from "@mst/core";
import { type RunConfig, stepTokens } from "../config/run_config.ts";
import type { RankEvent } from "../launcher/rank_protocol.ts";
import { spreadOf } from "../measure/summary.ts";
import { formatBytes, formatRate, formatSeconds } from "./units.ts";

/** Where progress is written. */
export interface ProgressOutput {
  /** Whether a line can be written over. */
  readonly isTerminal: boolean;
  /** Columns of the terminal. */
  readonly columns: number;
  /** Writes text as it is. */
  write(text: string): void;
}

/** The process's stderr. */
export function stderrOutput(): ProgressOutput {
  const isTerminal = Deno.stderr.isTerminal();
  return {
    isTerminal,
    // A terminal that does not know its width says 0.
    columns: isTerminal ? Deno.consoleSize().columns || 80 : Infinity,
    write: (text) => {
      Deno.stderr.writeSync(new TextEncoder().encode(text));
    },
  };
}

/** Shows the steps of one run: one line that is written over on a terminal, a line a step otherwise. */
export class Progress {
  readonly #output: ProgressOutput;
  readonly #run: RunConfig;
  readonly #name: string;
  readonly #speaker: number;
  readonly #stepMs: number[] = [];
  #isShowing = false;

  /**
   * @param name what the line starts with
   * @param speaker the rank that speaks for all
   */
  constructor(output: ProgressOutput, run: RunConfig, name: string, speaker = 0) {
    this.#output = output;
    this.#run = run;
    this.#name = name;
    this.#speaker = speaker;
  }

  /** Takes note of an event of a rank. */
  event(rank: number, event: RankEvent): void {
    if (rank !== this.#speaker) return;
    if (event.type === "waiting") this.#show(`${this.#name}: waiting for ${event.what}`);
    if (event.type === "ready") this.#show(`${this.#name}: ${event.deviceName}, setting up`);
    if (event.type === "step") this.#show(this.#describe(event.report, event.peakBytes));
    if (event.type === "saved") this.#show(`${this.#name}: step ${event.step} saved to ${this.#run.save?.folder}`);
  }

  /** Clears the line, so that what follows starts on an empty one. */
  end(): void {
    if (this.#isShowing) this.#output.write("\r\x1b[2K");
    this.#isShowing = false;
  }

  #describe({ step, loss, stepMs, skipped }: StepReport, peakBytes: number): string {
    const { train, warmup, resume } = this.#run;
    if (step - (resume?.step ?? 0) > warmup || this.#stepMs.length === 0) this.#stepMs.push(stepMs);
    const { median } = spreadOf(this.#stepMs.slice(this.#stepMs.length > 1 && warmup > 0 ? 1 : 0));
    const left = train.steps - step;
    return [
      `${this.#name}: step ${step}/${train.steps}`,
      `loss ${loss.toFixed(4)}${skipped ? ", skipped as gradients overflowed" : ""}`,
      `${formatRate(stepTokens(train) / stepMs * 1000)} tokens/s`,
      `${formatBytes(peakBytes)} a rank`,
      left > 0 ? `${formatSeconds(left * median / 1000)} left` : "done",
    ].join("  ");
  }

  #show(line: string): void {
    if (!this.#output.isTerminal) return this.#output.write(`${line}\n`);
    this.#output.write(`\r\x1b[2K${line.slice(0, this.#output.columns - 1)}`);
    this.#isShowing = true;
  }
}
