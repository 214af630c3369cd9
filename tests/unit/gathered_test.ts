import { assertEquals } from "@std/assert";
import {
  type Backend,
  createLoopbackGroups,
  createModelStates,
  createReferenceBackend,
  gathered,
  type Layer,
  type Parameter,
  recompute,
  savedTensors,
  zeros,
} from "@mst/core";
import { createRingStrategy } from "@mst/ring";

const SIZE = 8;

/** y = x · value, elementwise over one row, with a note of what it does. */
function scaling(backend: Backend, parameter: Parameter, note: (what: string) => void): Layer {
  return {
    backend,
    async forward(x) {
      note(`forward ${parameter.name} at ${(await backend.read(parameter.value))[0]}`);
      return { y: x.share(), saved: savedTensors({ x: x.share() }) };
    },
    async backward(dy, saved) {
      note(`backward ${parameter.name} at ${(await backend.read(parameter.value))[0]}`);
      backend.ops.add(dy, parameter.gradient!);
      saved.free();
      return dy;
    },
  };
}

Deno.test("the weights of the next layer travel while one computes, and one layer's are whole at a time", async () => {
  const notes = await Promise.all(
    createLoopbackGroups(2).map(async (group) => {
      await using backend = createReferenceBackend({ poison: true });
      const ring = createRingStrategy({ backend, group });
      const notes: string[] = [];
      const strategy: typeof ring = {
        ...ring,
        allGather(values) {
          notes.push("gather");
          return ring.allGather(values);
        },
      };
      const states = createModelStates(backend, strategy, { shard: "weights" });
      const parameters = [0, 1, 2].map((i) =>
        states.create(`p${i}`, [SIZE], { initialize: (target) => backend.ops.fill(target, i) })
      );
      const ownBytes = parameters.length * 4 * SIZE / 2;
      let isBackward = false;
      const note = (what: string) => {
        notes.push(what);
        assertEquals(backend.ledger.liveBytes("weights"), ownBytes + 4 * SIZE);
        assertEquals(backend.ledger.liveBytes("gradients"), ownBytes + (isBackward ? 4 * SIZE : 0));
      };
      const groups = parameters.map((parameter) => states.group([parameter]));
      const layers = parameters.map((parameter, i) =>
        gathered(recompute(scaling(backend, parameter, note)), groups[i], {
          previous: groups[i - 1],
          next: groups[i + 1],
        })
      );

      let x = zeros(backend, [SIZE], "activations");
      const saved = [];
      for (const layer of layers) {
        const forward = await layer.forward(x);
        x.free();
        x = forward.y;
        saved.push(forward.saved);
      }
      backend.ops.fill(x, 1 + group.rank);
      isBackward = true;
      for (const layer of layers.toReversed()) x = await layer.backward(x, saved.pop()!);
      x.free();
      for (const gradient of (await states.takeGradients()).values()) {
        assertEquals([...gradient], Array.from({ length: SIZE }, () => 3), "1 of rank 0 and 2 of rank 1");
      }
      states.free();
      assertEquals(backend.ledger.liveBytes(), 0);
      await group.close();
      return notes;
    }),
  );
  const expected = [
    ...["gather", "gather", "forward p0 at 0", "gather", "forward p1 at 1", "forward p2 at 2"],
    // Recomputation runs within the gather of backward.
    ...["gather", "gather", "forward p2 at 2", "backward p2 at 2"],
    ...["gather", "forward p1 at 1", "backward p1 at 1", "forward p0 at 0", "backward p0 at 0"],
    "gather", // the gradients, whole for the caller
  ];
  assertEquals(notes, [expected, expected]);
});
