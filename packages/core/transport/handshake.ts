/**
 * The greeting on a fresh WebSocket: the connecting rank says hello, the accepting one welcomes or refuses it.
 *
 * @module
 */
import { decodeAbort, decodeHello, decodeWelcome, encodeAbort, encodeHello } from "./control_payload.ts";
import type { Hello, Welcome } from "./control_payload.ts";
import { FrameError, PeerError, type PeerErrorKind } from "./errors.ts";
import { decodeFrame, encodeControlFrame, type Frame } from "./frame.ts";
import { UnreachableError } from "./reach.ts";

/** Milliseconds for which a socket may stay without a hello. */
const HELLO_LIMIT_MS = 10_000;
const POLICY_VIOLATION = 1008;
/** RFC 6455, section 5.5: a close frame has room for 123 bytes of reason; a detail may hold wider characters. */
const MAX_CLOSE_REASON_CHARACTERS = 40;

/** How an accepting rank treats a socket. */
export interface AcceptOptions {
  /** This rank. */
  readonly rank: number;
  /** Takes the socket over and returns nothing, or returns why it does not. */
  readonly admit: (hello: Hello, socket: WebSocket) => string | undefined;
}

/** How a connecting rank introduces itself. */
export interface JoinOptions<T> {
  /** Rank that listens at the address. */
  readonly peer: number;
  /** What this rank says of itself. */
  readonly hello: Hello;
  /** Takes the socket over, before its next event. */
  readonly adopt: (socket: WebSocket, welcome: Welcome) => T;
  /** Ends the attempt, with its reason as the error; a rank that has heard the hello is told. */
  readonly signal: AbortSignal;
  /** Called once the rank at the address has been sent the hello. */
  readonly onHello?: () => void;
  /** Certificates in PEM that are trusted besides the system's. */
  readonly trusted?: string;
}

/** Waits for the hello of a fresh socket, and refuses the socket with a reason if it is not what was wanted. */
export function acceptHello(socket: WebSocket, { rank, admit }: AcceptOptions): void {
  const timer = setTimeout(() => refuse(socket, rank, `no hello came in ${HELLO_LIMIT_MS / 1000} s`), HELLO_LIMIT_MS);
  socket.binaryType = "arraybuffer";
  socket.onclose = () => clearTimeout(timer);
  socket.onmessage = (event) => {
    clearTimeout(timer);
    const refusal = catchFrameError(() => admit(decodeHello(readFrame(event.data, "hello").payload), socket));
    if (refusal !== undefined) refuse(socket, rank, refusal);
  };
}

/**
 * Connects to a listening rank and resolves with what `adopt` makes of the socket.
 *
 * @throws {UnreachableError} If nobody answers at the address, or with a certificate that is not trusted
 * @throws {PeerError} If the rank leaves, refuses this one, ends the run or says something unexpected
 */
export function joinPeer<T>(url: string, { peer, hello, adopt, signal, onHello, trusted }: JoinOptions<T>): Promise<T> {
  const joined = Promise.withResolvers<T>();
  const client = trusted === undefined ? undefined : Deno.createHttpClient({ caCerts: [trusted] });
  const socket = client ? new WebSocket(url, { client }) : new WebSocket(url);
  const stop = () => {
    if (socket.readyState === WebSocket.OPEN) {
      const notice = { origin: hello.rank, detail: String(signal.reason?.message), refused: false };
      socket.send(encodeControlFrame("abort", encodeAbort(notice)));
    }
    end(signal.reason);
  };
  const end = (error: unknown) => {
    signal.removeEventListener("abort", stop);
    socket.onopen =
      socket.onmessage =
      socket.onclose =
      socket.onerror =
        null;
    socket.close();
    client?.close();
    joined.reject(error);
  };
  const fail = (kind: PeerErrorKind, detail: string, origin = peer) => {
    end(new PeerError({ peer, kind, detail, origin }, { name: "rendezvous", step: 0 }));
  };
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    socket.send(encodeControlFrame("hello", encodeHello(hello)));
    onHello?.();
    socket.onerror = null;
    socket.onclose = (event) => fail("closed", `it hung up before it answered the hello (code ${event.code})`);
  };
  socket.onerror = (event) => end(describeUnreachable(url, (event as ErrorEvent).message));
  socket.onmessage = (event) => {
    const broken = catchFrameError(() => {
      const frame = readFrame(event.data, "hello", "abort");
      if (frame.kind === "abort") {
        const { detail, origin, refused } = decodeAbort(frame.payload);
        return fail(refused ? "unauthorized" : "aborted", detail, origin);
      }
      const welcome = decodeWelcome(frame.payload);
      signal.removeEventListener("abort", stop);
      client?.close();
      joined.resolve(adopt(socket, welcome));
    });
    if (broken !== undefined) fail("protocol", broken);
  };
  signal.addEventListener("abort", stop);
  if (signal.aborted) stop();
  return joined.promise;
}

function describeUnreachable(url: string, message: string): UnreachableError {
  const reason = message.replace(/^NetworkError: failed to connect to WebSocket: /, "");
  return new UnreachableError(url, reason, { final: /certificate/i.test(reason) });
}

/** Tells the other side why, and closes. */
function refuse(socket: WebSocket, rank: number, detail: string): void {
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.onmessage = null;
  socket.send(encodeControlFrame("abort", encodeAbort({ origin: rank, detail, refused: true })));
  socket.close(POLICY_VIOLATION, detail.slice(0, MAX_CLOSE_REASON_CHARACTERS));
}

function readFrame(data: unknown, ...wanted: string[]): Frame {
  if (!(data instanceof ArrayBuffer)) throw new FrameError("Cannot read a text message: wanted binary frames");
  const frame = decodeFrame(new Uint8Array(data));
  if (wanted.includes(frame.kind)) return frame;
  throw new FrameError(`Cannot take a ${frame.kind} frame: wanted a ${wanted.join(" or ")} frame first`);
}

/** What the call returns, or the message of its `FrameError`. */
function catchFrameError<T>(run: () => T): T | string {
  try {
    return run();
  } catch (error) {
    if (error instanceof FrameError) return error.message;
    throw error;
  }
}
