/**
 * Dynamic loss scaling (Micikevicius et al. 2018, section 3.2): gradients of activations in f16 are kept away from zero by
 * a factor on the loss, which is taken back where weights are updated.
 *
 * @module
 */

/** Factor that a run starts with, as torch.amp.GradScaler's. */
export const INITIAL_LOSS_SCALE = 2 ** 16;

/** Steps without an overflow after which the factor grows, as torch.amp.GradScaler's. */
export const GROWTH_INTERVAL = 2000;

const GROWTH = 2;
const BACKOFF = 0.5;
const HIGHEST_SCALE = 2 ** 32;

/** Where a loss scale stands; a run that goes on from it makes the same steps. */
export interface LossScaleState {
  /** Factor on the loss. */
  readonly scale: number;
  /** Steps since the factor last changed. */
  readonly goodSteps: number;
  /** Steps of the run that were skipped. */
  readonly skippedSteps: number;
}

/** The factor on the loss, from step to step. All ranks see the same norms, so that all come to the same factor. */
export class LossScale {
  #state: LossScaleState;

  /** @param state what an earlier run left */
  constructor(state: LossScaleState = { scale: INITIAL_LOSS_SCALE, goodSteps: 0, skippedSteps: 0 }) {
    this.#state = state;
  }

  /** Where it stands. */
  get state(): LossScaleState {
    return this.#state;
  }

  /**
   * Notes a step: after 2,000 whose gradients were finite the factor doubles; where they were not it halves, and the step
   * counts as skipped.
   *
   * @throws {RangeError} when gradients are not finite although the loss is not scaled up any more
   */
  update(isFinite: boolean): void {
    const { scale, goodSteps, skippedSteps } = this.#state;
    if (!isFinite) {
      if (scale * BACKOFF < 1) {
        throw new RangeError(
          `Cannot go on with gradients that are not finite at a loss scale of ${scale}: a lower learning rate may help`,
        );
      }
      this.#state = { scale: scale * BACKOFF, goodSteps: 0, skippedSteps: skippedSteps + 1 };
    } else if (goodSteps + 1 < GROWTH_INTERVAL) this.#state = { scale, goodSteps: goodSteps + 1, skippedSteps };
    else this.#state = { scale: Math.min(scale * GROWTH, HIGHEST_SCALE), goodSteps: 0, skippedSteps };
  }
}
