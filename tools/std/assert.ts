/**
 * Thin stand-in for `@std/assert`: the assertions that the tests use, with the same names and signatures, on top of
 * `node:assert/strict`. Point `@std/assert` in deno.json at `jsr:@std/assert@1` to use the original.
 *
 * @module
 */
import { AssertionError as NodeAssertionError, deepStrictEqual, notDeepStrictEqual } from "node:assert/strict";

/** Error thrown by every assertion that does not hold. */
export class AssertionError extends Error {
  /** Creates the error with its message and, optionally, its cause. */
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "AssertionError";
  }
}

/** A class of errors, abstract or not, as `assertThrows` and `assertRejects` take it. */
// deno-lint-ignore no-explicit-any
export type ErrorClass<E extends Error = Error> = abstract new (...args: any[]) => E;

/** A class whose instances `assertInstanceOf` recognises. */
// deno-lint-ignore no-explicit-any
export type AnyConstructor = abstract new (...args: any[]) => any;

/** Asserts that `expr` is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg || "Expected a truthy value");
}

/** Asserts that `expr` is falsy. */
export function assertFalse(expr: unknown, msg = ""): void {
  if (expr) throw new AssertionError(msg || `Expected a falsy value, got ${show(expr)}`);
}

/** Asserts that `actual` and `expected` are deeply equal. Unlike the original, it tells -0 from 0. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  compare(() => deepStrictEqual(actual, expected), msg);
}

/** Asserts that `actual` and `expected` are not deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  compare(() => notDeepStrictEqual(actual, expected), msg);
}

/** Asserts that `actual` and `expected` are the same value, as `Object.is` tells. */
export function assertStrictEquals<T>(actual: unknown, expected: T, msg?: string): asserts actual is T {
  if (!Object.is(actual, expected)) fault(`Expected ${show(actual)} to be ${show(expected)}`, msg);
}

/** Asserts that `actual` and `expected` are not the same value, as `Object.is` tells. */
export function assertNotStrictEquals<T>(actual: T, expected: T, msg?: string): void {
  if (Object.is(actual, expected)) fault(`Expected ${show(actual)} to be another value`, msg);
}

/**
 * Asserts that two numbers differ by no more than `tolerance`, which by default is a ten-millionth of `expected`
 * (or 1e-7 where `expected` is zero). A NaN on either side fails.
 */
export function assertAlmostEquals(actual: number, expected: number, tolerance?: number, msg?: string): void {
  if (Object.is(actual, expected)) return;
  const limit = tolerance ?? (isFinite(expected) && expected !== 0 ? Math.abs(expected * 1e-7) : 1e-7);
  const delta = Math.abs(expected - actual);
  if (!(delta <= limit)) {
    fault(`Expected ${actual} to be within ${limit} of ${expected}, the difference is ${delta}`, msg);
  }
}

/** Asserts that `actual` is greater than `expected`. */
export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual > expected)) fault(`Expected ${show(actual)} > ${show(expected)}`, msg);
}

/** Asserts that `actual` is greater than `expected` or equal to it. */
export function assertGreaterOrEqual<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual >= expected)) fault(`Expected ${show(actual)} >= ${show(expected)}`, msg);
}

/** Asserts that `actual` is less than `expected`. */
export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual < expected)) fault(`Expected ${show(actual)} < ${show(expected)}`, msg);
}

/** Asserts that `actual` is less than `expected` or equal to it. */
export function assertLessOrEqual<T>(actual: T, expected: T, msg?: string): void {
  if (!(actual <= expected)) fault(`Expected ${show(actual)} <= ${show(expected)}`, msg);
}

/** Asserts that `actual` is neither null nor undefined. */
export function assertExists<T>(actual: T, msg?: string): asserts actual is NonNullable<T> {
  if (actual === undefined || actual === null) fault(`Expected a value, got ${show(actual)}`, msg);
}

/** Asserts that `actual` contains the text `expected`. */
export function assertStringIncludes(actual: string, expected: string, msg?: string): void {
  if (!actual.includes(expected)) fault(`Expected ${show(actual)} to contain ${show(expected)}`, msg);
}

/** Asserts that `actual` contains every element of `expected`, compared deeply. */
export function assertArrayIncludes<T>(actual: ArrayLike<T>, expected: ArrayLike<T>, msg?: string): void {
  const missing = Array.from(expected).filter((wanted) => !Array.from(actual).some((found) => equal(found, wanted)));
  if (missing.length > 0) fault(`Expected ${show(actual)} to contain ${show(missing)}`, msg);
}

/** Asserts that `actual` matches `expected`. */
export function assertMatch(actual: string, expected: RegExp, msg?: string): void {
  if (!expected.test(actual)) fault(`Expected ${show(actual)} to match ${expected}`, msg);
}

/** Asserts that `actual` does not match `expected`. */
export function assertNotMatch(actual: string, expected: RegExp, msg?: string): void {
  if (expected.test(actual)) fault(`Expected ${show(actual)} not to match ${expected}`, msg);
}

/** Asserts that `actual` is an instance of `expectedType`. */
export function assertInstanceOf<T extends AnyConstructor>(
  actual: unknown,
  expectedType: T,
  msg = "",
): asserts actual is InstanceType<T> {
  if (actual instanceof expectedType) return;
  fault(`Expected an instance of ${expectedType.name}, got ${show(actual)}`, msg);
}

/** Asserts that `error` is an error, of class `ErrorClass` and with `msgMatches` in its message where these are given. */
export function assertIsError<E extends Error = Error>(
  error: unknown,
  ErrorClass?: ErrorClass<E>,
  msgMatches?: string | RegExp,
  msg?: string,
): asserts error is E {
  if (!(error instanceof Error)) fault(`Expected an error, got ${show(error)}`, msg);
  if (ErrorClass && !(error instanceof ErrorClass)) {
    fault(`Expected a ${ErrorClass.name}, got ${(error as Error).name}: ${(error as Error).message}`, msg);
  }
  const text = (error as Error).message;
  const found = typeof msgMatches === "string" ? text.includes(msgMatches) : msgMatches?.test(text) ?? true;
  if (!found) fault(`Expected the error message to match ${msgMatches}, got ${show(text)}`, msg);
}

/** Asserts that `fn` throws, and returns what it threw. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
/** Asserts that `fn` throws an `ErrorClass` whose message contains `msgIncludes`, and returns the error. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  ErrorClass: ErrorClass<E>,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows(
  fn: () => unknown,
  errorClassOrMsg?: ErrorClass | string,
  msgIncludes?: string,
  msg?: string,
): unknown {
  let thrown: { error: unknown } | undefined;
  try {
    fn();
  } catch (error) {
    thrown = { error };
  }
  return checkThrown(thrown, "Expected the function to throw", errorClassOrMsg, msgIncludes, msg);
}

/** Asserts that the promise of `fn` is rejected, and resolves to the reason. */
export function assertRejects(fn: () => PromiseLike<unknown>, msg?: string): Promise<unknown>;
/** Asserts that the promise of `fn` is rejected with an `ErrorClass` whose message contains `msgIncludes`. */
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: ErrorClass<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects(
  fn: () => PromiseLike<unknown>,
  errorClassOrMsg?: ErrorClass | string,
  msgIncludes?: string,
  msg?: string,
): Promise<unknown> {
  let thrown: { error: unknown } | undefined;
  let promise: PromiseLike<unknown>;
  try {
    promise = fn();
  } catch (error) {
    throw new AssertionError("Expected the function to reject, but it threw before it returned a promise", {
      cause: error,
    });
  }
  try {
    await promise;
  } catch (error) {
    thrown = { error };
  }
  return checkThrown(thrown, "Expected the function to reject", errorClassOrMsg, msgIncludes, msg);
}

/** Fails always. */
export function fail(msg?: string): never {
  throw new AssertionError(`Failed assertion${msg ? `: ${msg}` : "."}`);
}

/** Marks a place that must not be reached. */
export function unreachable(msg?: string): never {
  throw new AssertionError(`Unreachable${msg ? `: ${msg}` : "."}`);
}

function checkThrown(
  thrown: { error: unknown } | undefined,
  expectation: string,
  errorClassOrMsg: ErrorClass | string | undefined,
  msgIncludes: string | undefined,
  msg: string | undefined,
): unknown {
  const ErrorClass = typeof errorClassOrMsg === "string" ? undefined : errorClassOrMsg;
  const note = typeof errorClassOrMsg === "string" ? errorClassOrMsg : msg;
  if (!thrown) fault(expectation, note);
  if (ErrorClass) assertIsError(thrown!.error, ErrorClass, msgIncludes, note);
  return thrown!.error;
}

function compare(check: () => void, msg: string | undefined): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof NodeAssertionError)) throw error;
    throw new AssertionError(msg ? `${msg}: ${error.message}` : error.message);
  }
}

function equal(a: unknown, b: unknown): boolean {
  try {
    deepStrictEqual(a, b);
    return true;
  } catch {
    return false;
  }
}

function fault(reason: string, msg: string | undefined): never {
  throw new AssertionError(msg ? `${reason}: ${msg}` : reason);
}

function show(value: unknown): string {
  return Deno.inspect(value, { strAbbreviateSize: 2000 });
}
