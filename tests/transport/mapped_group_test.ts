import { assert, assertEquals, assertNotStrictEquals, assertStrictEquals, assertThrows } from "@std/assert";
import { createLoopbackGroups } from "../../packages/core/transport/loopback.ts";
import { shareMemory } from "../../packages/core/transport/mapped_group.ts";
import { createMemoryFile, openMemoryFile } from "../../packages/core/transport/memory_file.ts";
import { OwnMappedMemory } from "../../packages/core/transport/mapped_memory.ts";
import { release } from "../../packages/core/transport/release.ts";
import { createMappedGroups, patternBytes, sameBytes } from "./_groups.ts";

const ADDRESSES = 2 ** 26;

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

Deno.test("memory that is not there, and a file that is none, are refused", async () => {
  assertThrows(() => openMemoryFile("/proc/self/fd/9999", 4096), Error);
  assertThrows(() => createMemoryFile(-1), Error, "Cannot create a memory file of -1 bytes");
  const writer = new Deno.Command("sleep", { args: ["60"], stdin: "null", stdout: "null", stderr: "null" }).spawn();
  try {
    // A descriptor of another process that leads to another file.
    assertThrows(() => openMemoryFile(`/proc/${writer.pid}/fd/0`, 4096), Error, "it is another file");
  } finally {
    writer.kill();
    await writer.status;
  }
});
