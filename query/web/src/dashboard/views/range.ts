// Ranges of time as a reader chooses them.

import { now } from "../format.ts";
import type { Instant } from "../types.ts";

export const DAY = 86_400_000; // ms

export const isoAgo = (ms: number): Instant => new Date(now() - ms).toISOString();

/** fromInput is the moment that a date or time field names, in the browser's time zone; "" for none. */
export function fromInput(value: string): string {
  // A date alone would be read as UTC.
  const date = new Date(value.length === 10 ? `${value}T00:00` : value);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}
