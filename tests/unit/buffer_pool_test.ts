import { assertEquals, assertLessOrEqual, assertStrictEquals, assertThrows } from "@std/assert";
import { BufferPool, type PooledBuffer, sizeClass } from "../../packages/core/backend/webgpu/buffer_pool.ts";

const MIB = 2 ** 20;

/** A source of buffers that only counts. */
class CountingSource {
  readonly maxBufferBytes = 1024 * MIB;
  readonly created: number[] = [];
  readonly destroyed: number[] = [];

  create(bytes: number): GPUBuffer {
    this.created.push(bytes);
    return {} as GPUBuffer;
  }

  destroy({ bytes }: PooledBuffer): void {
    this.destroyed.push(bytes);
  }
}

const what = () => "allocate a test tensor";

Deno.test("size classes waste at most an eighth, and there are eight of them per power of two", () => {
  const classes = new Set<number>();
  for (let bytes = 1; bytes <= 65_536; bytes++) {
    const size = sizeClass(bytes);
    classes.add(size);
    if (size < bytes || size % 16 !== 0) throw new Error(`${bytes} bytes got a class of ${size}`);
    if (bytes > 256) assertLessOrEqual(size, bytes * 1.125);
    assertEquals(sizeClass(size), size);
  }
  assertEquals(classes.size, 1 + 8 * 8);
});

Deno.test("large buffers waste at most a 64th", () => {
  for (let bytes = 256 * MIB + 1; bytes <= 8192 * MIB; bytes = Math.ceil(bytes * 1.003)) {
    const size = sizeClass(bytes);
    if (size < bytes || size > bytes * 65 / 64 || size % 16 !== 0) {
      throw new Error(`${bytes} bytes got a class of ${size}`);
    }
    assertEquals(sizeClass(size), size);
  }
});

Deno.test("a freed buffer serves the next request of its class, the one made first before others", () => {
  const source = new CountingSource();
  const pool = new BufferPool(source);
  const made = [1000, 970, 1024, 1000].map((bytes) => pool.acquire(bytes, what));
  for (const i of [2, 0, 3, 1]) pool.release(made[i]);
  for (const buffer of made) assertStrictEquals(pool.acquire(990, what), buffer);
  assertEquals(source.created, [1024, 1024, 1024, 1024]);
  assertEquals(pool.peakReservedBytes, 4096);
});

Deno.test("buffers kept for reuse stay within a sixteenth of the peak and 64 MiB", () => {
  const source = new CountingSource();
  const pool = new BufferPool(source);
  for (let round = 1; round <= 40; round++) {
    // Every round wants a class of its own, so nothing is ever reused.
    const buffer = pool.acquire(sizeClass(MIB * round), what);
    assertLessOrEqual(pool.liveBytes + pool.cachedBytes, buffer.bytes * 1.0625 + 64 * MIB);
    pool.release(buffer);
  }
  assertLessOrEqual(pool.peakReservedBytes, 40 * MIB * 1.0625 + 64 * MIB);
});

Deno.test("the buffer that was freed longest ago is destroyed first", () => {
  const source = new CountingSource();
  const pool = new BufferPool(source);
  const buffers = [28, 30, 32].map((size) => pool.acquire(size * MIB, what));
  for (const i of [1, 2, 0]) pool.release(buffers[i]);
  // 104 MiB live and 90 kept are over the bound of 104 · 1.0625 + 64; one buffer less is not.
  pool.acquire(104 * MIB, what);
  assertEquals(source.destroyed, [buffers[1].bytes]);
});

Deno.test("clearing destroys what is kept, not what is in use", () => {
  const source = new CountingSource();
  const pool = new BufferPool(source);
  const [kept] = [pool.acquire(5000, what), pool.acquire(7000, what)];
  pool.release(kept);
  pool.clear();
  assertEquals(source.destroyed, [kept.bytes]);
  assertEquals([pool.liveBytes, pool.cachedBytes], [sizeClass(7000), 0]);
});

Deno.test("destroying everything reaches kept buffers and buffers in use, each once", () => {
  const destroyed: number[] = [];
  const source = {
    maxBufferBytes: MIB,
    create: (bytes: number) => ({ destroy: () => destroyed.push(bytes) }) as unknown as GPUBuffer,
    destroy: ({ gpu }: PooledBuffer) => gpu.destroy(),
  };
  const pool = new BufferPool(source);
  pool.release(pool.acquire(256, what));
  pool.acquire(512, what);
  pool.release(pool.acquire(1024, what));
  pool.clear();
  pool.acquire(2048, what);
  pool.destroyAll();
  assertEquals(destroyed, [256, 1024, 512, 2048]);
});

Deno.test("a request over the largest buffer is refused with its user and both sizes", () => {
  const pool = new BufferPool(new CountingSource());
  const error = assertThrows(() => pool.acquire(1024 * MIB + 4, what), RangeError);
  assertEquals(
    error.message,
    "Cannot allocate a test tensor: 1073741828 bytes are more than the largest buffer of 1073741824 bytes",
  );
  assertEquals(pool.acquire(1024 * MIB - 4, what).bytes, 1024 * MIB);
});
