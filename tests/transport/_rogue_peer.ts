/**
 * Peers that misbehave: they know the token and greet properly, then do as the test says.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { decodeWelcome, encodeHello, type Hello } from "../../packages/core/transport/control_payload.ts";
import {
  decodeFrame,
  encodeControlFrame,
  encodeFrame,
  encodeHead,
  type Frame,
  frameBytes,
} from "../../packages/core/transport/frame.ts";
import { TOKEN } from "./_groups.ts";

/** A WebSocket, and everything that came in. */
export interface RawSocket {
  readonly socket: WebSocket;
  /** Frames that have come in. */
  readonly frames: Frame[];
  /** Resolves with the next frame that comes in. */
  nextFrame(): Promise<Frame>;
  /** Resolves once the socket is closed, with code and reason. */
  readonly closed: Promise<{ code: number; reason: string }>;
}

/** Opens a WebSocket that says nothing by itself. */
export async function openRaw(url: string): Promise<RawSocket> {
  const socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  const closed = Promise.withResolvers<{ code: number; reason: string }>();
  const frames: Frame[] = [];
  let receiver: PromiseWithResolvers<Frame> | undefined;
  socket.onclose = ({ code, reason }) => closed.resolve({ code, reason });
  socket.onmessage = ({ data }) => {
    frames.push(decodeFrame(new Uint8Array(data)));
    receiver?.resolve(frames.at(-1)!);
  };
  const opened = Promise.withResolvers<void>();
  socket.onopen = () => opened.resolve();
  socket.onerror = () => opened.reject(new Error(`Cannot open ${url}`));
  await opened.promise;
  const nextFrame = () => {
    receiver = Promise.withResolvers<Frame>();
    return receiver.promise;
  };
  return { socket, frames, nextFrame, closed: closed.promise };
}

/** Says hello on a fresh socket. */
export function sayHello({ socket }: RawSocket, hello: Partial<Hello>): void {
  const payload = encodeHello({ rank: 1, size: 2, token: TOKEN, ...hello });
  socket.send(encodeControlFrame("hello", payload));
}

/** Joins a run as its highest rank, linked to every other, and never answers a thing. */
export async function joinAsRogue(url: string, size: number): Promise<RawSocket[]> {
  const hello = { rank: size - 1, size };
  const first = await openRaw(url);
  const answer = first.nextFrame();
  sayHello(first, hello);
  const { addresses } = decodeWelcome((await answer).payload);
  const others: RawSocket[] = [];
  for (const address of addresses.slice(1, -1)) {
    const other = await openRaw(address);
    const welcome = other.nextFrame();
    sayHello(other, hello);
    await welcome;
    others.push(other);
  }
  return [first, ...others];
}

/** A data frame; a whole message unless told otherwise. */
export function dataFrame(fields: Partial<Frame> & { payload: Uint8Array }): Uint8Array<ArrayBuffer> {
  const whole = { messageId: 0, label: "x", totalBytes: fields.payload.length, offsetBytes: 0 };
  const frame: Frame = { kind: "data", ...whole, ...fields };
  return encodeFrame(frame, new Uint8Array(frameBytes(frame)));
}

/** The head of a data frame whose payload would be the next WebSocket message; a whole message. */
export function dataHead(payload: Uint8Array, label = "x"): Uint8Array<ArrayBuffer> {
  return encodeHead({ kind: "data", messageId: 0, label, totalBytes: payload.length, offsetBytes: 0, payload });
}

/** Joins a run of two as rank 1 over TCP, and never reads a byte behind the welcome. Returns the connection. */
export async function joinWithoutReading(url: string): Promise<Deno.TcpConn> {
  const { hostname, port } = new URL(url);
  const connection = await Deno.connect({ hostname, port: Number(port) });
  const request = [
    "GET / HTTP/1.1",
    `Host: ${hostname}:${port}`,
    "Upgrade: websocket",
    "Connection: Upgrade",
    `Sec-WebSocket-Key: ${Buffer.alloc(16).toString("base64")}`,
    "Sec-WebSocket-Version: 13",
  ];
  await connection.write(new TextEncoder().encode(`${request.join("\r\n")}\r\n\r\n`));
  const answer = new Uint8Array(4096);
  await connection.read(answer);
  await connection.write(maskedMessage(encodeControlFrame("hello", encodeHello({ rank: 1, size: 2, token: TOKEN }))));
  await connection.read(answer);
  return connection;
}

/** A short binary WebSocket message as a client sends it (RFC 6455, section 5.2), masked with zeros. */
function maskedMessage(payload: Uint8Array): Uint8Array {
  if (payload.length > 125) throw new RangeError(`Cannot write ${payload.length} bytes as a short message`);
  return new Uint8Array([0x82, 0x80 | payload.length, 0, 0, 0, 0, ...payload]);
}
