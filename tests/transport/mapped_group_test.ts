import {
  assert,
  assertEquals,
  assertNotStrictEquals,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { createLoopbackGroups } from "../../packages/core/transport/loopback.ts";
import { shareMemory } from "../../packages/core/transport/mapped_group.ts";
import { createMemoryFile, openMemoryFile } from "../../packages/core/transport/memory_file.ts";
import { OwnMappedMemory } from "../../packages/core/transport/mapped_memory.ts";
import { release } from "../../packages/core/transport/release.ts";
import { bytesOf, pairedSegment } from "../../packages/core/transport/collectives.ts";
import { measureLinks } from "../../packages/core/transport/link_profile.ts";
import { subgroup } from "../../packages/core/transport/subgroup.ts";
import { withTempDir } from "../_support/temp_dir.ts";
import { createMappedGroups, patternBytes, sameBytes } from "./_groups.ts";

const ADDRESSES = 2 ** 26;

/** Compares long arrays quickly. */
function sameFloats(left: Float32Array, right: Float32Array): boolean {
  return sameBytes(bytesOf(left), bytesOf(right));
}

Deno.test("what lies in mapped memory is read where it lies, and its name alone travels", async () => {
  const links = createLoopbackGroups(2);
  const [first, second] = await Promise.all(links.map((group) => shareMemory(group, { addressBytes: ADDRESSES })));
  const before = links[0].stats.bytesSent;
  const data = first.memory.bytes(1_000_000);
  data.set(patternBytes(1_000_000, 3));
  const [received] = await Promise.all([second.recv(0, "x"), first.send(1, data.subarray(10, 900_000), "x")]);
  assert(sameBytes(received, patternBytes(1_000_000, 3).subarray(10, 900_000)));
  assertEquals(links[0].stats.bytesSent - before, 40);
  assertEquals(first.stats.bytesSent, 899_990);
  data[10] ^= 0xff;
  assertEquals(received[0], data[10], "it is the same memory");
  release(received);
  assertEquals(received.length, 0, "nobody reads what may be written again");
  await Promise.all([first.close(), second.close()]);
});

Deno.test("what lies in mapped memory is gathered where it lies", async () => {
  const links = createLoopbackGroups(2);
  const groups = await Promise.all(links.map((group) => shareMemory(group, { addressBytes: ADDRESSES })));
  const before = links[0].stats.bytesSent;
  const own = groups.map(({ memory }, rank) => {
    const data = memory.bytes(100_000);
    data.set(patternBytes(100_000, rank));
    return data;
  });
  const gathered = await Promise.all(groups.map((group, rank) => group.allGather(own[rank])));
  for (const parts of gathered) parts.forEach((part, rank) => assert(sameBytes(part, patternBytes(100_000, rank))));
  assertEquals(links[0].stats.bytesSent - before, 40);
  await Promise.all(groups.map((group) => group.close()));
});

Deno.test("sums over a part of the ranks leave alone what lies in the memory of others, and give it back", async () => {
  const groups = await createMappedGroups(4);
  const ranks = [0, 1, 3];
  const members = ranks.map((rank) => subgroup(groups[rank], ranks));
  const [length, value] = [300_001, (rank: number, i: number) => 10 * rank + i % 7];
  const own = members.map(({ memory, rank }) => {
    const data = memory.floats(length);
    data.forEach((_, i) => data[i] = value(rank, i));
    return data;
  });
  const total = Float32Array.from({ length }, (_, i) => value(0, i) + value(1, i) + value(2, i));
  const parts = await Promise.all(members.map((group, rank) => group.reduceScatter(own[rank])));
  for (const [rank, part] of parts.entries()) {
    const { start, end } = pairedSegment(length, 3, rank);
    assert(sameFloats(part, total.subarray(start, end)), `sum on rank ${rank}`);
    assert(sameFloats(own[rank], Float32Array.from({ length }, (_, i) => value(rank, i))), `data of rank ${rank}`);
  }
  await Promise.all(members.map((group, rank) => group.allReduce(own[rank])));
  own.forEach((data) => assert(sameFloats(data, total)));
  own.forEach((data, rank) => members[rank].memory.give(data));
  own.forEach((data, rank) => assert(members[rank].memory.floats(length).buffer === data.buffer, `rank ${rank}`));
  await Promise.all(groups.map((group) => group.close()));
});

Deno.test("memory is handed out again once it is given back and every receiver has released it", async () => {
  const [first, second, third] = await createMappedGroups(3);
  const data = first.memory.floats(100_000);
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const [one] = await Promise.all([second.recv(0, "x"), first.send(1, bytes, "x")]);
  first.memory.give(data);
  assertNotStrictEquals(first.memory.floats(100_000).buffer, data.buffer, "one rank reads it");
  // Passed on, it is still the first rank's.
  const [other] = await Promise.all([third.recv(1, "x"), second.send(2, one, "x")]);
  release(one);
  assertThrows(() => release(one), TypeError);
  assertNotStrictEquals(first.memory.floats(100_000).buffer, data.buffer, "another rank reads it");
  release(other);
  assertStrictEquals(first.memory.floats(100_000).buffer, data.buffer);
  assertNotStrictEquals(first.memory.floats(100_000).buffer, data.buffer, "what is in use is not handed out");
  await Promise.all([first, second, third].map((group) => group.close()));
});

Deno.test("beyond its addresses a rank gets memory that is sent as any other", async () => {
  const [first, second] = await Promise.all(
    createLoopbackGroups(2).map((group) => shareMemory(group, { addressBytes: 2 ** 20 })),
  );
  const data = first.memory.bytes(2_000_000);
  data.set(patternBytes(2_000_000, 1));
  const [received] = await Promise.all([second.recv(0, "x"), first.send(1, data, "x")]);
  data.fill(0);
  assert(sameBytes(received, patternBytes(2_000_000, 1)));
  await Promise.all([first.close(), second.close()]);
});

Deno.test("ranks that cannot reach each other's memory keep the group they have", async () => {
  const links = createLoopbackGroups(2);
  // Without addresses there is no memory to map.
  const groups = await Promise.all(
    links.map((group, rank) => shareMemory(group, { addressBytes: rank === 0 ? ADDRESSES : -1 })),
  );
  groups.forEach((group, rank) => assertStrictEquals(group, links[rank]));
  await Promise.all(links.map((group) => group.close()));
});

Deno.test("a message that looks like a name but names nobody's memory is a message", async () => {
  const [first, second] = await createMappedGroups(2);
  for (const message of [new Uint8Array(40), patternBytes(40, 1)]) {
    const [received] = await Promise.all([second.recv(0, "x"), first.send(1, message, "x")]);
    assertEquals(received, message);
  }
  await Promise.all([first.close(), second.close()]);
});

Deno.test("another process reads and writes the same memory, and counts itself off", async () => {
  const memory = OwnMappedMemory.create(ADDRESSES);
  const data = memory.bytes(100_000);
  data.set(patternBytes(100_000, 7));
  const place = memory.placeOf(data)!;
  memory.lend(place);
  memory.give(data);
  assertNotStrictEquals(memory.bytes(100_000).buffer, data.buffer);
  const program = `
    import { MappedMemory } from ${
    JSON.stringify(import.meta.resolve("../../packages/core/transport/mapped_memory.ts"))
  };
    import { release } from ${JSON.stringify(import.meta.resolve("../../packages/core/transport/release.ts"))};
    const memory = MappedMemory.open(${JSON.stringify(memory.path)}, ${ADDRESSES});
    const bytes = memory.borrow(${JSON.stringify(place)});
    console.log(memory.name.toHex(), bytes.reduce((sum, byte) => (sum * 31 + byte) >>> 0, 0));
    release(bytes);`;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["eval", "--ext=ts", program],
    env: { NO_COLOR: "1" },
  }).output();
  const sum = patternBytes(100_000, 7).reduce((total, byte) => (total * 31 + byte) >>> 0, 0);
  assertEquals(
    new TextDecoder().decode(stdout).trim(),
    `${memory.name.toHex()} ${sum}`,
    new TextDecoder().decode(stderr),
  );
  assertStrictEquals(memory.bytes(100_000).buffer, data.buffer, "the other process has released it");
});

Deno.test("memory that is not there is refused with its name", () => {
  assertThrows(
    () => openMemoryFile("/proc/self/fd/9999", 4096),
    Error,
    "Cannot open the memory file /proc/self/fd/9999",
  );
  assertThrows(() => createMemoryFile(-1), Error, "Cannot create a memory file of -1 bytes");
});

Deno.test("a stranger's file, and memory of another length, are neither mapped nor read", () =>
  withTempDir(async (folder) => {
    const path = `${folder}/file`;
    await Deno.writeFile(path, new Uint8Array(4096));
    assertThrows(() => openMemoryFile(path, 4096), Error, `Cannot open the memory file ${path}`);
    // Who looks at memory that is not there is killed.
    const short = createMemoryFile(4096);
    assertThrows(() => openMemoryFile(short.path, 8192), Error, `Cannot open the memory file ${short.path}`);
    assertEquals(openMemoryFile(short.path, 4096).view(0, 4096).byteLength, 4096);
  }));

Deno.test("processes that a rank starts do not keep its memory", async () => {
  createMemoryFile(4096);
  const { stdout } = await new Deno.Command("ls", { args: ["-l", "/proc/self/fd"] }).output();
  const files = new TextDecoder().decode(stdout);
  assertStringIncludes(files, "/proc/");
  assert(!files.includes("memfd:mst"), files);
});

Deno.test("measuring links keeps no memory", async () => {
  const groups = await createMappedGroups(2);
  const taken = groups.map(({ memory }) => {
    const bytes = memory.bytes(8);
    memory.give(bytes);
    return bytes.buffer;
  });
  await Promise.all(groups.map(measureLinks));
  groups.forEach(({ memory }, rank) => assert(memory.bytes(8).buffer === taken[rank], `rank ${rank}`));
  await Promise.all(groups.map((group) => group.close()));
});
