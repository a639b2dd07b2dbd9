import { Code } from "@connectrpc/connect";
import type { PaternosterError } from "./errors.js";

/**
 * When a call is made again: after UNAVAILABLE, and after RESOURCE_EXHAUSTED where the server says
 * when to come back, while no token has arrived and the deadline allows it.
 */
export interface Retry {
  /** Calls in all; 1 never tries again. */
  readonly attempts: number;
  /** The pause before the second attempt; it doubles for each further one. */
  readonly firstMs: number;
  /** The longest of these pauses. */
  readonly longestMs: number;
}

export const DEFAULT_RETRY: Retry = { attempts: 4, firstMs: 100, longestMs: 5_000 };

/** Node's timers take no longer pause: they would take none. */
const PAUSE_MS_MAX = 2 ** 31 - 1;

/** How long to wait after the attempt of this number, from 1; undefined gives up. */
export function pauseMs(
  retry: Retry,
  attempt: number,
  error: PaternosterError,
  remainingMs: number,
): number | undefined {
  const overloaded = error.code === Code.ResourceExhausted && error.retryAfterMs !== undefined;
  if (attempt >= retry.attempts || (error.code !== Code.Unavailable && !overloaded)) {
    return undefined;
  }
  const pause = length(retry, attempt, error);
  const possible = pause !== undefined && pause < remainingMs && pause <= PAUSE_MS_MAX;
  return possible ? pause : undefined;
}

function length(retry: Retry, attempt: number, error: PaternosterError): number | undefined {
  if (error.pushback !== undefined) {
    // gRFC A6: a value that is negative or not a number means not to try again.
    return /^\d+$/.test(error.pushback) ? Number(error.pushback) : undefined;
  }
  if (error.retryAfterMs !== undefined) {
    return Math.max(0, error.retryAfterMs);
  }
  const pause = Math.min(retry.longestMs, retry.firstMs * 2 ** (attempt - 1));
  return pause * (0.8 + 0.4 * Math.random());
}
