/**
 * The bench: scenarios, launcher, measurement and reports, where all packages meet.
 *
 * @module
 */
export {};
