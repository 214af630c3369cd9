/**
 * How the processes of a run find one another. Rank 0 listens and is told where the others listen; once all have come it
 * sends everyone the table of addresses. Then every rank connects to the lower ones, so that each pair holds exactly one
 * WebSocket: to rank 0 it is the one of the rendezvous.
 *
 * @module
 */
import { checkConnectOptions, type ConnectOptions, DEFAULT_TIMEOUT_MS } from "./connect_options.ts";
import { Meeting, RENDEZVOUS } from "./meeting.ts";
import type { ProcessGroup } from "./process_group.ts";

/**
 * Joins the run and resolves once this rank is linked to every other.
 *
 * Connections with a wrong token, for another number of ranks, from a rank that is taken or out of range, or that speak
 * something else are refused with the reason and do not disturb the run.
 *
 * @throws {RangeError} If size, rank, port or timeout are out of range
 * @throws {TypeError} If the token is empty, or an address is missing, none, or does not go with `tls`
 * @throws {ListenError} If this rank cannot listen where it is told to
 * @throws {PeerError} If this rank is refused, a rank leaves, or ranks do not come in time; the message names them
 */
export async function connectProcessGroup(options: ConnectOptions): Promise<ProcessGroup> {
  const { rank, size, timeoutMs = DEFAULT_TIMEOUT_MS, rendezvousMs = timeoutMs, onListening } = options;
  checkConnectOptions(options);
  const meeting = new Meeting(options, timeoutMs);
  // Rank 0 gives up first, and tells the others which ranks are missing before they begin to blame rank 0.
  const limitMs = rank === 0 ? rendezvousMs : rendezvousMs + Math.min(rendezvousMs / 4, 5000);
  const timer = setTimeout(() => meeting.fail(meeting.describeMissing(limitMs)), limitMs);
  try {
    if (rank < size - 1) await meeting.listen();
    if (rank === 0 && size > 1) onListening?.(meeting.url!);
    meeting.tellMissing();
    if (rank > 0) await meeting.join();
    await meeting.complete;
    return meeting.formGroup();
  } catch (error) {
    meeting.stop(error as Error);
    const group = meeting.formGroup(RENDEZVOUS.name);
    group.abort(error as Error);
    await group.close();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
