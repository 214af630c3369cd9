import { assertEquals, assertGreater } from "@std/assert";
import { allocatorEnvironment } from "../../packages/bench/launcher/allocator.ts";

/** Milliseconds for copies of 64 MiB, each of which is freed before the next, in a process of its own. */
async function copyMs(environment: Readonly<Record<string, string>>): Promise<number> {
  const code = `
    const source = new Uint8Array(64 * 2 ** 20).fill(1);
    const times = [];
    for (let i = 0; i < 8; i++) {
      const startMs = performance.now();
      source.slice().buffer.transfer(0);
      times.push(performance.now() - startMs);
    }
    console.log(Math.min(...times.slice(2)));`;
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["eval", code], env: { ...environment } })
    .output();
  return Number(new TextDecoder().decode(stdout));
}

Deno.test({
  name: "a process that keeps what it frees copies into it faster",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const [fresh, kept] = [await copyMs({}), await copyMs(allocatorEnvironment({}))];
    assertGreater(kept, 0);
    assertGreater(fresh / kept, 1.15, `${fresh} ms with fresh pages, ${kept} ms without; three to four times is usual`);
  },
});

Deno.test("a choice that the user made for the allocator stays", () => {
  assertEquals(allocatorEnvironment({ MALLOC_ARENA_MAX: "2" }), {});
});
