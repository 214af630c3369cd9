/**
 * Where a rank waits for others to connect.
 *
 * @module
 */

import type { TlsIdentity } from "./connect_options.ts";

/** What a listener needs. */
export interface ListenerOptions {
  /** Address to listen at. */
  readonly host: string;
  /** Port to listen at, 0 for a free one. */
  readonly port: number;
  /** Certificate to show, for wss. */
  readonly tls?: TlsIdentity;
  /** Called with each socket that a WebSocket request opens, before its first event, and the address it came from. */
  readonly onSocket: (socket: WebSocket, from: string) => void;
}

/** A rank cannot listen where it was told to. */
export class ListenError extends Error {
  /** Name of the class. */
  override readonly name = "ListenError";
}

/** A listening rank. */
export interface PeerListener {
  /** Port that it listens at. */
  readonly port: number;
  /** Answers 503 to every request from here on. */
  refuse(): void;
  /** Stops listening and drops the sockets that came in here, answered or not. */
  shutdown(): Promise<void>;
}

/**
 * Listens for WebSockets. Requests that ask for none get the answer 426.
 *
 * Deno's server owns the sockets that it upgraded and closes them when it shuts down, so a listener has to stay for as
 * long as its sockets are used.
 *
 * @throws {Error} If the host is not this machine's, the port is taken, or certificate and key are none
 */
export function listenForPeers({ host, port, tls, onSocket }: ListenerOptions): PeerListener {
  const controller = new AbortController();
  let refusing = false;
  const options = { hostname: host, port, signal: controller.signal, onListen: () => {} };
  const answer = (request: Request, { remoteAddr }: Deno.ServeHandlerInfo<Deno.NetAddr>) => {
    if (refusing) return new Response("All ranks have joined\n", { status: 503 });
    if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
      return new Response("Ranks connect by WebSocket\n", { status: 426, headers: { upgrade: "websocket" } });
    }
    const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
    onSocket(socket, remoteAddr.hostname);
    return response;
  };
  const server = tls
    ? Deno.serve({ ...options, cert: tls.certificate, key: tls.key }, answer)
    : Deno.serve(options, answer);
  return {
    port: server.addr.port,
    refuse: () => {
      refusing = true;
    },
    shutdown: async () => {
      controller.abort();
      await server.finished;
    },
  };
}
