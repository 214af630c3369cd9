/**
 * How a rank meets the others: those of its own launcher, or those that commands on other hosts start.
 *
 * @module
 */

import { type ConnectOptions, connectWorkerGroup, type ProcessGroup, shareMemory } from "@mst/core";
import { parseRendezvous } from "../config/rendezvous_address.ts";
import type { HostMeeting, LaunchedRank, RankEvent, RankOrder, RendezvousOrder } from "../launcher/rank_protocol.ts";

/** Options of {@linkcode meetRanks}. */
export interface MeetOptions {
  /** What the rank was told first. */
  readonly order: RankOrder;
  /** Resolves to what it is told next. */
  readonly nextOrder: () => Promise<unknown>;
  /** Told where it listens and what it waits for. */
  readonly emit: (event: RankEvent) => void;
}

/** Cores of a rank's own from which on two threads share its exchange: one is busy with copying long before a link is full. */
const CORES_FOR_TWO_WORKERS = 4;

/** Joins the run; resolves to the group of all ranks. */
export async function meetRanks({ order, nextOrder, emit }: MeetOptions): Promise<ProcessGroup> {
  const { rank, token, job, meeting } = order;
  const { ranks, timeoutSeconds } = job.run;
  const group = await connectWorkerGroup({
    rank,
    size: ranks,
    token,
    timeoutMs: timeoutSeconds * 1000,
    workers: !meeting && navigator.hardwareConcurrency >= CORES_FOR_TWO_WORKERS * ranks ? 2 : 1,
    ...(meeting ? acrossHosts(rank, meeting, emit) : await onThisHost(rank, nextOrder, emit)),
  });
  return meeting ? group : await shareMemory(group);
}

/** Gives every rank what all of them did, by rank. */
export async function gatherReports(group: ProcessGroup, own: LaunchedRank): Promise<LaunchedRank[]> {
  const reports = await group.allGather(new TextEncoder().encode(JSON.stringify(own)));
  return reports.map((report) => JSON.parse(new TextDecoder().decode(report)));
}

async function onThisHost(
  rank: number,
  nextOrder: MeetOptions["nextOrder"],
  emit: MeetOptions["emit"],
): Promise<Partial<ConnectOptions>> {
  if (rank === 0) return { onListening: (url) => emit({ type: "listening", url }) };
  return { rendezvous: (await nextOrder() as RendezvousOrder).rendezvous };
}

function acrossHosts(
  rank: number,
  { rendezvous, bind, tls, settings }: HostMeeting,
  emit: MeetOptions["emit"],
): Partial<ConnectOptions> {
  const { host, port } = parseRendezvous(rendezvous)!;
  const onWaiting = (what: string) => emit({ type: "waiting", what });
  if (rank > 0) return { rendezvous, retry: true, host: bind, tls, settings, onWaiting };
  return { host: bind ?? host, port, advertise: rendezvous, tls, settings, onWaiting };
}
