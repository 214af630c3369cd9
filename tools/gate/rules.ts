/**
 * The rules that the gate's structure checks enforce, as data. A new package, layer or test area is one line here.
 *
 * @module
 */

/** Largest number of lines of a TypeScript file. */
export const MAX_FILE_LINES = 320;

/** Packages that each package may import. A strategy imports core alone; only the bench meets all of them. */
export const PACKAGE_IMPORTS: Readonly<Record<string, readonly string[]>> = {
  core: [],
  ulysses: ["core"],
  ring: ["core"],
  megatron: ["core"],
  bench: ["core", "ulysses", "ring", "megatron"],
};

const FOUNDATION = ["config", "tensor", "memory", "backend"];
const LAYER = [...FOUNDATION, "layer"];
const WRAPPERS = [...LAYER, "mini_sequence", "recompute"];
const STRATEGY_CONTRACTS = ["strategy/strategy.ts", "strategy/tensor_parallel.ts", "strategy/unsupported.ts"];

/**
 * Layers of core and the layers that each may import. A layer is a folder or a file below `packages/core`; a file
 * belongs to the longest name that fits, and may always import its own layer.
 */
export const CORE_LAYERS: Readonly<Record<string, readonly string[]>> = {
  "config": [],
  "tensor": ["config"],
  "memory": ["config", "tensor"],
  "backend": ["config", "tensor", "memory"],
  "backend/webgpu": FOUNDATION,
  "backend/reference": FOUNDATION,
  "layer": FOUNDATION,
  "mini_sequence": LAYER,
  "recompute": LAYER,
  "transport": FOUNDATION,
  "strategy/strategy.ts": [...LAYER, "strategy/tensor_parallel.ts"],
  "strategy/tensor_parallel.ts": WRAPPERS,
  "strategy/unsupported.ts": [],
  "strategy": [...WRAPPERS, "transport", ...STRATEGY_CONTRACTS],
  "sharding": [...LAYER, "transport", ...STRATEGY_CONTRACTS],
  "model": [...WRAPPERS, ...STRATEGY_CONTRACTS, "sharding"],
  "train": [
    ...WRAPPERS,
    "backend/webgpu",
    "backend/reference",
    "transport",
    ...STRATEGY_CONTRACTS,
    "strategy",
    "sharding",
    "model",
  ],
};

/** Files that every package has. */
export const PACKAGE_FACE: readonly string[] = ["deno.json", "mod.ts", "project.json", "README.md"];

/** nx targets that every package has. */
export const PACKAGE_TARGETS: readonly string[] = ["check", "test", "bench"];

/** Folders below `tests` that hold no tests. */
export const TEST_SUPPORT_FOLDERS: readonly string[] = ["_support"];

/** Lock files of tools whose packages must stay out of the root's lock file, since the bench installs all of that. */
export const TOOL_LOCK_FILES: readonly string[] = ["tools/gate/deno.lock", "tools/nx/deno.lock"];
