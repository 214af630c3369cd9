/**
 * Hosts on one machine: network namespaces of Linux, joined by a switch, over links that drop, delay or throttle packets
 * (ip-netns(8), tc(8), nft(8)). Needs root, iproute2 and, for packet loss without `tc netem`, nftables.
 *
 * @module
 */

/** What a link does to the packets that a host sends. */
export type PacketConditions = "slow" | "lossy" | "far";

/** Commands that bring a link into a condition; the first that works is taken. */
const WAYS: Readonly<Record<PacketConditions, readonly ((namespace: string) => string[])[]>> = {
  slow: [
    (namespace) => [`tc -n ${namespace} qdisc add dev eth root tbf rate 20mbit burst 32kb latency 50ms`],
    (namespace) => [`tc -n ${namespace} qdisc add dev eth root netem rate 20mbit`],
  ],
  lossy: [
    (namespace) => [`tc -n ${namespace} qdisc add dev eth root netem loss 2%`],
    (namespace) => [
      `ip netns exec ${namespace} nft add table inet loss`,
      `ip netns exec ${namespace} nft add chain inet loss out {type filter hook output priority 0;}`,
      // A sender is told of a packet that it drops itself; one that is dropped on arrival is lost.
      `ip netns exec ${namespace} nft add chain inet loss in {type filter hook input priority 0;}`,
      `ip netns exec ${namespace} nft add rule inet loss in iifname eth numgen random mod 100 < 2 drop`,
    ],
  ],
  far: [(namespace) => [`tc -n ${namespace} qdisc add dev eth root netem delay 20ms 5ms`]],
};

/** Some hosts, each of which reaches all others. */
export class HostNetwork implements AsyncDisposable {
  readonly #hosts: readonly string[];
  readonly #switch: string;

  private constructor(hosts: readonly string[], switchName: string) {
    this.#hosts = hosts;
    this.#switch = switchName;
  }

  /**
   * Makes the hosts, without a way to anything else.
   *
   * @throws {Error} What `ip` says if it cannot
   */
  static async create(count: number): Promise<HostNetwork> {
    const id = crypto.randomUUID().slice(0, 6);
    const hosts = Array.from({ length: count }, (_, index) => `mst-${id}-${index}`);
    const network = new HostNetwork(hosts, `mst-${id}-switch`);
    try {
      await network.#build();
    } catch (error) {
      await network[Symbol.asyncDispose]();
      throw error;
    }
    return network;
  }

  /** Address of a host. */
  address(host: number): string {
    return `10.213.0.${host + 1}`;
  }

  /** Words before a command that is to run on a host. */
  within(host: number): string[] {
    return ["ip", "netns", "exec", this.#hosts[host]];
  }

  /**
   * Makes the links of all hosts bad.
   *
   * @throws {Error} What the commands say if none of the ways works here
   */
  async impair(conditions: PacketConditions): Promise<void> {
    for (const host of this.#hosts) await firstThatWorks(WAYS[conditions].map((way) => way(host)));
  }

  /** Pulls the cable of a host: nothing passes any more, and nobody is told. */
  async pullCable(host: number): Promise<void> {
    await run(`ip -n ${this.#switch} link set port${host} down`);
  }

  /** Removes the hosts and their links. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const namespace of [...this.#hosts, this.#switch]) await run(`ip netns del ${namespace}`).catch(() => {});
  }

  async #build(): Promise<void> {
    await run(`ip netns add ${this.#switch}`);
    await run(`ip -n ${this.#switch} link add bridge type bridge`);
    await run(`ip -n ${this.#switch} link set bridge up`);
    for (const [index, host] of this.#hosts.entries()) {
      await run(`ip netns add ${host}`);
      await run(`ip link add eth netns ${host} type veth peer name port${index} netns ${this.#switch}`);
      await run(`ip -n ${this.#switch} link set port${index} master bridge up`);
      await run(`ip -n ${host} address add ${this.address(index)}/24 dev eth`);
      for (const device of ["lo", "eth"]) await run(`ip -n ${host} link set ${device} up`);
    }
  }
}

/** Why hosts cannot be made here, or their links brought into a condition; undefined if they can. */
export async function whyNoNetwork(conditions?: PacketConditions): Promise<string | undefined> {
  try {
    await using network = await HostNetwork.create(1);
    if (conditions) await network.impair(conditions);
    return undefined;
  } catch (error) {
    // Names of tests stay the same from run to run.
    return (error as Error).message.replace(/mst-\w{6}/g, "mst");
  }
}

async function firstThatWorks(ways: readonly string[][]): Promise<void> {
  const problems: string[] = [];
  for (const commands of ways) {
    try {
      for (const command of commands) await run(command);
      return;
    } catch (error) {
      problems.push((error as Error).message);
    }
  }
  throw new Error(problems.join("; "));
}

/** Runs a command of words without spaces, but for what stands in braces. */
async function run(command: string): Promise<void> {
  const [program, ...args] = command.match(/\{[^}]*\}|\S+/g)!;
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command(program, { args, stdin: "null" }).output();
  } catch (error) {
    throw new Error(`${program}: ${(error as Error).message}`);
  }
  if (output.success) return;
  const said = new TextDecoder().decode(output.stderr).trim().replace(/\s+/g, " ");
  throw new Error(`${command}: ${said || `exit code ${output.code}`}`);
}
