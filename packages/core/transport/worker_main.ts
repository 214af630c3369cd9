/**
 * The worker that holds the process group of a thread: sockets, frames, collectives and their sums.
 *
 * @module
 */
import type { ProcessGroup } from "./process_group.ts";
import { connectProcessGroup } from "./rendezvous.ts";
import { type FromWorker, receivedError, sendableError, type ToWorker, type WorkerCall } from "./worker_messages.ts";

// The types of a worker's global scope clash with those of a window, which the other files have.
const scope = self as unknown as {
  onmessage: (event: MessageEvent<ToWorker>) => void;
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
};

let group: ProcessGroup;

scope.onmessage = ({ data }) => {
  switch (data.type) {
    case "connect":
      return void connect(data);
    case "step":
      group.step = data.step;
      return;
    case "call":
      return void carryOut(data);
    case "abort":
      return group.abort(receivedError(data.reason));
    case "close":
      return void group.close().then(() => scope.postMessage({ type: "closed" }));
  }
};

/** Joins the run; nothing else is asked for before it has. */
async function connect({ options, callbacks }: Extract<ToWorker, { type: "connect" }>): Promise<void> {
  const told = callbacks.map((callback) =>
    [callback, (text: string) => scope.postMessage({ type: "told", callback, text })] as const
  );
  try {
    group = await connectProcessGroup({ ...options, ...Object.fromEntries(told) });
  } catch (error) {
    return scope.postMessage({ type: "refused", error: sendableError(error) });
  }
  const { signal } = group;
  const tellEnd = () => scope.postMessage({ type: "ended", error: sendableError(signal.reason) });
  signal.addEventListener("abort", tellEnd);
  scope.postMessage({ type: "connected" });
  if (signal.aborted) tellEnd();
}

async function carryOut({ id, method, args }: WorkerCall): Promise<void> {
  try {
    const result: unknown = await Reflect.apply(group[method], group, args);
    scope.postMessage({ type: "done", id, result, counts: counts() }, buffersOf(result));
  } catch (error) {
    scope.postMessage({ type: "failed", id, error: sendableError(error), counts: counts() });
  }
}

function counts() {
  const { bytesSent, bytesReceived, messagesSent } = group.stats;
  return { bytesSent, bytesReceived, messagesSent };
}

/** The memory of what a call returns, which changes hands. */
function buffersOf(result: unknown): ArrayBuffer[] {
  const arrays = Array.isArray(result) ? result : [result];
  return arrays.flatMap((array) => ArrayBuffer.isView(array) ? [array.buffer as ArrayBuffer] : []);
}
