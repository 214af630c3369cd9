/**
 * One rank as a process of its own, with its group in a worker: `deno run _rank_process.ts RANK SIZE TIMEOUT_MS MODE [URL]`. Writes one JSON value a
 * line: rank 0 its address, every rank "ready", and at last its result or its error.
 *
 * Mode `work` exchanges and leaves by reaching its end, so that anything left open shows as a process that stays; mode
 * `endless` exchanges until something fails; in mode `hang` rank 1 blocks its thread for good in step 3, and in mode
 * `pause` for one and a half timeouts in every step.
 *
 * @module
 */
import { PeerError } from "../../packages/core/transport/errors.ts";
import type { ProcessGroup } from "../../packages/core/transport/process_group.ts";
import { connectWorkerGroup } from "../../packages/core/transport/worker_group.ts";
import { MEETING_MS, patternBytes, sameBytes, TOKEN } from "./_groups.ts";

const [rank, size, timeoutMs] = Deno.args.slice(0, 3).map(Number);
const [mode, rendezvous] = Deno.args.slice(3);

function report(value: unknown): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(value)}\n`));
}

/** A ring exchange of more than one frame, and a sum. */
async function exchange(group: ProcessGroup): Promise<number> {
  const [next, previous] = [(rank + 1) % size, (rank + size - 1) % size];
  const [received] = await Promise.all([
    group.recv(previous, "block"),
    group.send(next, patternBytes(17 * 2 ** 20, rank), "block"),
  ]);
  if (!sameBytes(received, patternBytes(17 * 2 ** 20, previous))) throw new Error(`Cannot trust rank ${previous}`);
  const sum = new Float32Array(1000).fill(rank + 1);
  await group.allReduce(sum);
  return sum[999];
}

/** Keeps this thread from looking at anything. */
function block(ms: number): void {
  const endMs = performance.now() + ms;
  while (performance.now() < endMs);
}

const meeting = { rank, size, token: TOKEN, rendezvous, rendezvousMs: MEETING_MS, onListening: report };
const group = await connectWorkerGroup({ ...meeting, timeoutMs });
try {
  report("ready");
  for (group.step = 1; mode === "endless" || group.step <= 3; group.step++) {
    if (rank === 1 && mode === "hang" && group.step === 3) block(Infinity);
    if (rank === 1 && mode === "pause") block(1.5 * timeoutMs);
    const sum = await exchange(group);
    if (group.step === 3) report({ sum });
  }
  await group.close();
} catch (error) {
  if (!(error instanceof PeerError)) throw error;
  const { message, kind, origin, step } = error;
  report({ message, kind, origin, step });
  await group.close();
  Deno.exit(3);
}
