/**
 * Layer checkpoints that wait on the host for their backward, so that device memory does not grow with layers × tokens
 * (as Arctic Long Sequence Training has it, Bekman et al. 2025).
 *
 * @module
 */

import type { Backend } from "../backend/backend.ts";
import { applyLayer, type Forward, type Layer, rematerializeLayer } from "../layer/layer.ts";
import { hostWords } from "../memory/host_words.ts";
import type { Saved } from "../tensor/scope.ts";
import type { DType, Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Words that are enough to tell that a tensor has been written. */
const FENCE_WORDS = 1;

/** Wraps a layer of a sequence of layers as `recompute` does; `index` is its number, from 0. */
export type WrapLayer = (layer: Layer, index: number) => Layer;

/** Host memory for the inputs of the layers of a sequence. */
export interface HostCheckpoints {
  /** Bytes on the host, kept from one use to the next. */
  readonly bytes: number;
  /**
   * Wraps the layers for one forward of all of them in order and one backward in reverse order. Each keeps only its input
   * between the two, and all but the last ones keep it on the host.
   */
  begin(): WrapLayer;
}

/** A layer's input on the host. */
interface HostInput {
  readonly shape: Shape;
  readonly dtype: DType;
  readonly words: Float32Array;
}

/** The input of one layer, on the device or on the host. */
class SavedInput implements Saved {
  /** On the device, from forward on in the last layers, and from right before backward in others. */
  x?: Tensor;
  host?: HostInput;

  constructor(readonly index: number) {}

  get tensors(): readonly Tensor[] {
    return this.x ? [this.x] : [];
  }

  /** Gives the input to its backward. */
  take(): Tensor {
    const { x } = this;
    if (!x) {
      throw new ReferenceError(`Cannot run the backward of layer ${this.index}: that of the layer after it is next`);
    }
    this.x = undefined;
    return x;
  }

  free(): void {
    this.x?.free();
    this.x = undefined;
  }
}

/** Options of {@linkcode createHostCheckpoints}. */
export interface HostCheckpointsOptions {
  /** Last layers whose inputs stay on the device. Default 1: its backward is next, so that its input is needed at once. */
  readonly onDevice?: number;
}

/**
 * Host memory for the inputs of `layers` layers, allocated when it is first needed and then used again.
 *
 * Copying to the host starts when a layer begins, and is waited for once the next layer has been handed to the device. An
 * input is put back on the device once the backward of the layer after it has been handed over, and not before the one put
 * back earlier has arrived. So one of them is copied while the device computes, and no more than two are on their way.
 */
export function createHostCheckpoints(
  backend: Backend,
  layers: number,
  { onDevice = 1 }: HostCheckpointsOptions = {},
): HostCheckpoints {
  const memory: Float32Array[] = [];

  function staysOnDevice(index: number): boolean {
    return index >= layers - onDevice;
  }

  function wordsOf(index: number, length: number): Float32Array {
    if (memory[index]?.length !== length) memory[index] = hostWords(length, "checkpoints");
    return memory[index];
  }

  /** Copies as `x` is now; the function that is returned waits for it. */
  function readInput(x: Tensor, saved: SavedInput): () => Promise<unknown> {
    using words = x.words();
    saved.host = { shape: x.shape, dtype: x.dtype, words: wordsOf(saved.index, words.size) };
    return backend.readLater([words], [saved.host.words]);
  }

  function begin(): WrapLayer {
    const inputs: SavedInput[] = [];
    let reading: (() => Promise<unknown>) | undefined;
    let writing: (() => Promise<unknown>) | undefined;

    /** Keeps x for the time in which `compute` is handed to the device. */
    async function keep<T>(x: Tensor, index: number, compute: () => Promise<T>): Promise<{ result: T; saved: Saved }> {
      const saved = inputs[index] = new SavedInput(index);
      const stays = staysOnDevice(index);
      const read = stays ? undefined : readInput(x, saved);
      const result = await compute();
      if (stays) {
        x.storage.retag("checkpoints");
        saved.x = x.share();
      }
      backend.flush();
      const earlier = reading;
      reading = read;
      await earlier?.();
      return { result, saved };
    }

    /** Puts the input of a layer back on the device. */
    async function putBack(saved: SavedInput): Promise<void> {
      backend.flush();
      await writing?.();
      const { shape, dtype, words } = saved.host!;
      saved.x = backend.empty(shape, "checkpoints", dtype);
      using target = saved.x.words();
      backend.write(target, words);
      using first = target.elements(0, Math.min(FENCE_WORDS, target.size));
      writing = backend.readLater([first]);
    }

    return (layer, index) => ({
      backend: layer.backend,

      async forward(x: Tensor, out?: Tensor): Promise<Forward> {
        const { result, saved } = await keep(x, index, () => applyLayer(layer, x, out));
        return { y: result, saved };
      },

      async backward(dy: Tensor, saved: Saved): Promise<Tensor> {
        let inner: Saved;
        {
          using x = (saved as SavedInput).take();
          inner = await rematerializeLayer(layer, x);
        }
        const dx = await layer.backward(dy, inner);
        if (index > 0 && !staysOnDevice(index - 1)) await putBack(inputs[index - 1]);
        return dx;
      },

      apply: (x: Tensor, out?: Tensor) => applyLayer(layer, x, out),
    });
  }

  return {
    get bytes(): number {
      return memory.reduce((sum, { byteLength }) => sum + byteLength, 0);
    },
    begin,
  };
}
