/**
 * From flags to the part of a run that this command starts, where the ranks lie on several hosts.
 *
 * @module
 */

import type { TlsIdentity } from "@mst/core";
import type { BenchFlags } from "../cli/flags.ts";
import { UsageError } from "../cli/usage_error.ts";
import type { HostMeeting, HostShare } from "../launcher/rank_protocol.ts";
import { parseRendezvous } from "./rendezvous_address.ts";
import { MODE_FLAGS } from "./run_config.ts";

/** Variable that holds the secret of a run. */
const TOKEN_VARIABLE = "MST_TOKEN";
/** Characters that a secret has at least, so that it cannot be guessed. */
const MIN_TOKEN_CHARACTERS = 16;

/** What flags say of this host; the settings of the run are not known yet. */
export interface HostOptions extends Omit<HostShare, "meeting"> {
  /** How its ranks meet the others. */
  readonly meeting: Omit<HostMeeting, "settings">;
}

/** Flags that make sense only with `--rendezvous`. */
const HOST_FLAG_NAMES = ["rank", "bind", "token-file", "certificate", "key"] as const;

/**
 * Reads what flags say of this host; undefined where all ranks are its own.
 *
 * @param token the secret as the environment has it
 * @throws {UsageError} when something is missing or contradicts the rest, or a file cannot be read
 */
export async function readHostOptions(
  flags: BenchFlags,
  token: string | undefined = Deno.env.get(TOKEN_VARIABLE),
): Promise<HostOptions | undefined> {
  const { rendezvous, ranks, rank: own, bind } = flags;
  if (rendezvous === undefined) {
    const stray = HOST_FLAG_NAMES.find((name) => flags[name] !== undefined);
    if (stray) throw new UsageError(`Cannot use --${stray} without --rendezvous: it is for ranks on several hosts`);
    return undefined;
  }
  const address = parseRendezvous(rendezvous);
  if (!address) {
    throw new UsageError(`Cannot use --rendezvous=${rendezvous}: it must be ws://HOST:PORT or wss://HOST:PORT`);
  }
  const several = MODE_FLAGS.find((name) => flags[name]);
  if (several) throw new UsageError(`Cannot use --${several} with --rendezvous: it is a set of runs of one host`);
  if (ranks === undefined || ranks === "auto") {
    throw new UsageError("Cannot use --rendezvous without --ranks: it must be the number of ranks on all hosts");
  }
  if (own === undefined) {
    throw new UsageError(`Cannot use --rendezvous without --rank: say which of 0 to ${ranks - 1} to start here`);
  }
  if (own.at(-1)! >= ranks) {
    throw new UsageError(`Cannot start rank ${own.at(-1)} of --ranks=${ranks}: it must be 0 to ${ranks - 1}`);
  }
  const tls = await readTls(flags, address.secure);
  return { ranks: own, token: await readToken(flags["token-file"], token), meeting: { rendezvous, bind, tls } };
}

async function readToken(file: string | undefined, variable: string | undefined): Promise<string> {
  const token = file === undefined ? variable?.trim() : (await readFile("token-file", file)).trim();
  if (!token) {
    const where = file === undefined ? `${TOKEN_VARIABLE} or --token-file must hold` : `${file} must hold`;
    throw new UsageError(
      `Cannot meet other hosts without a token: ${where} the same secret on all of them, ` +
        "such as `openssl rand -hex 16` prints",
    );
  }
  if (token.length < MIN_TOKEN_CHARACTERS) {
    throw new UsageError(
      `Cannot use a token of ${token.length} characters: it must have ${MIN_TOKEN_CHARACTERS} or more, ` +
        "such as `openssl rand -hex 16` prints",
    );
  }
  return token;
}

async function readTls({ certificate, key }: BenchFlags, secure: boolean): Promise<TlsIdentity | undefined> {
  if (!secure) {
    if (certificate === undefined && key === undefined) return undefined;
    throw new UsageError("Cannot use a certificate with ws://: encrypted links need --rendezvous=wss://HOST:PORT");
  }
  if (certificate === undefined || key === undefined) {
    throw new UsageError("Cannot use wss:// without --certificate and --key: links are encrypted with them");
  }
  const [chain, privateKey] = [await readFile("certificate", certificate), await readFile("key", key)];
  if (!chain.includes("-----BEGIN CERTIFICATE-----")) {
    throw new UsageError(`Cannot use --certificate=${certificate}: it must hold a certificate in PEM`);
  }
  if (!/-----BEGIN (\w+ )?PRIVATE KEY-----/.test(privateKey)) {
    throw new UsageError(`Cannot use --key=${key}: it must hold a private key in PEM, without a passphrase`);
  }
  return { certificate: chain, key: privateKey };
}

async function readFile(flag: string, path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (cause) {
    throw new UsageError(`Cannot use --${flag}=${path}: ${(cause as Error).message}`, { cause });
  }
}
