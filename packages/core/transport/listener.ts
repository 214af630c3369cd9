/**
 * Where a rank waits for others to connect.
 *
 * @module
 */

/** What a listener needs. */
export interface ListenerOptions {
  /** Address to listen at, which is also the one the other ranks are told. */
  readonly host: string;
  /** Called with each socket that a WebSocket request opens, before its first event. */
  readonly onSocket: (socket: WebSocket) => void;
}

/** A listening rank. */
export interface PeerListener {
  /** Its address, `ws://host:port`. */
  readonly url: string;
  /** Answers 503 to every request from here on. */
  refuse(): void;
  /** Stops listening and drops the sockets that came in here, answered or not. */
  shutdown(): Promise<void>;
}

/**
 * Listens on a free port. Requests that ask for no WebSocket get the answer 426.
 *
 * Deno's server owns the sockets that it upgraded and closes them when it shuts down, so a listener has to stay for as
 * long as its sockets are used.
 *
 * @throws {Error} What Deno throws if the host is not this machine's
 */
export function listenForPeers({ host, onSocket }: ListenerOptions): PeerListener {
  const controller = new AbortController();
  let refusing = false;
  const server = Deno.serve(
    { hostname: host, port: 0, signal: controller.signal, onListen: () => {} },
    (request) => {
      if (refusing) return new Response("All ranks have joined\n", { status: 503 });
      if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
        return new Response("Ranks connect by WebSocket\n", { status: 426, headers: { upgrade: "websocket" } });
      }
      const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
      onSocket(socket);
      return response;
    },
  );
  return {
    url: `ws://${host.includes(":") ? `[${host}]` : host}:${server.addr.port}`,
    refuse: () => {
      refusing = true;
    },
    shutdown: async () => {
      controller.abort();
      await server.finished;
    },
  };
}
