import { CONFORMANCE_CASES } from "./_conformance.ts";
import { TRANSPORTS, withGroups } from "./_groups.ts";

for (const transport of TRANSPORTS) {
  for (const size of transport.sizes) {
    Deno.test(`transport over ${transport.name}, ${size} ranks`, async (t) => {
      for (const { name, run } of CONFORMANCE_CASES) {
        await t.step(name, () => withGroups(transport, size, run));
      }
    });
  }
}
