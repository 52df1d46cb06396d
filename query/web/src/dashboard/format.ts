// Numbers, money and times as the reader's browser writes them.

import { h, muted } from "./dom.ts";
import type { Instant } from "./types.ts";

/**
 * The locale is English as it is written where the reader is: the pages are in
 * English, and a month or a number in another language would stand between its
 * words.
 */
export const locale = `en-${new Intl.Locale(navigator.language).maximize().region ?? "US"}`;

/** The time zone in which times are shown. */
export const timeZone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

const integers = new Intl.NumberFormat(locale);
const short = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const percents = new Intl.NumberFormat(locale, { style: "percent" });

export const count = (n: number): string => integers.format(n);
export const decimal = (n: number): string => short.format(n);
export const percent = (n: number): string => percents.format(n / 100);

/** noun is a count with its word: "1 event", "2 entries". */
export const noun = (n: number, word: string): string => `${count(n)} ${n === 1 ? word : plural(word)}`;

export const plural = (word: string): string => word.replace(/y$/, "ie") + "s";

const currencies = new Map<string, Intl.NumberFormat>();

function currencyFormat(currency: string, fractions: number): Intl.NumberFormat {
  const key = currency + fractions;
  let format = currencies.get(key);
  if (!format) {
    format = new Intl.NumberFormat(locale, {
      style: "currency",
      currency: currency.toUpperCase(),
      minimumFractionDigits: 2,
      maximumFractionDigits: fractions,
    });
    currencies.set(key, format);
  }
  return format;
}

/** money writes an amount that the API gives in cents. */
export const money = (cents: number, currency: string): string =>
  currencyFormat(currency, 2).format(cents / 100);

/** price writes the price of one unit, which may be a fraction of a cent. */
export const price = (amount: string, currency: string): string =>
  currencyFormat(currency, 12).format(Number(amount));

// The server's clock minus this one's, so that "5 min ago" is right on a
// computer whose clock is not.
let clockOffset = 0;

export function learnClock(date: string | null): void {
  const server = Date.parse(date ?? "");
  const offset = server - Date.now();
  // The header has whole seconds: what is within two of them is agreement.
  if (!Number.isNaN(server)) clockOffset = Math.abs(offset) < 2000 ? 0 : offset;
}

export const now = (): number => Date.now() + clockOffset;

const clock = new Intl.DateTimeFormat(locale, { timeStyle: "medium" });
const dayAndTime = new Intl.DateTimeFormat(locale, {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});
const fullTime = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
const exact = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });

/** timeText is as short as it can be without doubt: the time today, else the day as well. */
export function timeText(at: Instant): string {
  const date = new Date(at);
  const today = new Date(now());
  if (date.toDateString() === today.toDateString()) return clock.format(date);
  return (date.getFullYear() === today.getFullYear() ? dayAndTime : fullTime).format(date);
}

/** time is a moment; its title is the full time. */
export function time(at: Instant): HTMLTimeElement {
  return h("time", { datetime: at, title: `${exact.format(new Date(at))}\n${at}` }, timeText(at));
}

/** timeOr is a moment, or what to say when there is none. */
export const timeOr = (at: Instant | null, none: string): Node => (at ? time(at) : muted(none));

const relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });
const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
  ["second", 1],
];

/** ago is how far a moment is from now, before or after. */
export function ago(at: Instant): string {
  const seconds = (Date.parse(at) - now()) / 1000;
  const [unit, length] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? ["second", 1];
  return relative.format(Math.round(seconds / length), unit);
}

const LENGTHS = [...UNITS, ["millisecond", 0.001] as const].map(([unit, length]) => ({
  length,
  format: new Intl.NumberFormat(locale, {
    style: "unit",
    unit,
    unitDisplay: "short",
    maximumFractionDigits: 1,
  }),
}));

/** duration writes a length of time in its largest unit: "40 ms", "1.2 sec", "12 min". */
export function duration(seconds: number): string {
  const { length, format } = LENGTHS.find((l) => seconds >= l.length) ?? LENGTHS.at(-1)!;
  const value = seconds / length;
  return format.format(value >= 10 ? Math.round(value) : value);
}

const utcDay: Intl.DateTimeFormatOptions = {
  day: "numeric",
  month: "short",
  year: "numeric",
  timeZone: "UTC",
};
const periods = new Intl.DateTimeFormat(locale, utcDay);

/** period names a billing period by its days in UTC, which is what it is billed by. */
export function period(start: Instant, end: Instant): Node {
  return h(
    "span",
    { class: "period", title: `from ${start}\nuntil ${end} (exclusive)` },
    periods.formatRange(new Date(start), new Date(end)),
  );
}

/** periodStart names a period by the day in UTC on which it began. */
export const periodStart = (start: Instant): Node =>
  h("time", { datetime: start, title: start }, periods.format(new Date(start)));

/** words makes "past_due" readable. */
export const words = (name: string): string => name.replaceAll("_", " ");

/** sentence begins with a capital letter. */
export const sentence = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
