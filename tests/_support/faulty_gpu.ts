/**
 * A GPU that fails on purpose: it runs out of memory early, and is lost on request.
 *
 * @module
 */

/** How the GPU is to fail. */
export interface Faults {
  /** Allocations above this report out-of-memory. */
  readonly maxAllocationBytes?: number;
}

/** The real GPU, wrapped. */
export interface FaultyGpu extends GPU {
  /** Reports the device as lost. */
  lose(message: string): void;
}

/** Wraps the real GPU so that it fails as told. */
export function faultyGpu({ maxAllocationBytes = Infinity }: Faults = {}): FaultyGpu {
  const lost = Promise.withResolvers<GPUDeviceLostInfo>();
  const wrapDevice = (device: GPUDevice): GPUDevice => {
    /** One entry for each open error scope. */
    const scopes: { filter: GPUErrorFilter; error?: GPUError }[] = [];
    return wrap(device, {
      lost: lost.promise,
      pushErrorScope(filter: GPUErrorFilter): undefined {
        scopes.push({ filter });
        device.pushErrorScope(filter);
      },
      async popErrorScope(): Promise<GPUError | null> {
        const { error } = scopes.pop()!;
        return await device.popErrorScope() ?? error ?? null;
      },
      createBuffer(descriptor: GPUBufferDescriptor): GPUBuffer {
        if (descriptor.size > maxAllocationBytes) {
          const scope = scopes.findLast(({ filter }) => filter === "out-of-memory");
          if (scope) scope.error = new GPUOutOfMemoryError("");
        }
        return device.createBuffer(descriptor);
      },
    });
  };
  const gpu = wrap(navigator.gpu, {
    async requestAdapter(options?: GPURequestAdapterOptions): Promise<GPUAdapter | null> {
      const adapter = await navigator.gpu.requestAdapter(options);
      return adapter && wrap(adapter, {
        requestDevice: async (descriptor?: GPUDeviceDescriptor) => wrapDevice(await adapter.requestDevice(descriptor)),
      });
    },
  });
  const lose = (message: string) => lost.resolve({ message } as GPUDeviceLostInfo);
  return Object.assign(gpu, { lose });
}

/** An object with some members replaced; native methods keep their receiver. */
function wrap<T extends object>(target: T, replaced: Partial<T>): T {
  return new Proxy({} as T, {
    get(own, key) {
      if (key in own) return own[key as keyof T];
      if (key in replaced) return replaced[key as keyof T];
      const value = target[key as keyof T];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
