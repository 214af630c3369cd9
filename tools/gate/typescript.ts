/**
 * The one place that imports the TypeScript compiler, whose parser and checker the gate's structure checks use.
 *
 * @module
 */
export { default as ts } from "npm:typescript@6.0.3";
