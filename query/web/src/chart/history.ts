// What GET /api/v1/usage/history answers, and what a chart makes of it.

export interface History {
  window: "hour" | "day" | "month";
  timezone: string;
  group_by: string[];
  complete_from: string | null; // null: nothing of the range was removed
  buckets: Bucket[];
}

export interface Bucket {
  start: string;
  end: string;
  groups: { agent?: string; action_type?: string; quantity: number }[];
}

export type Grouping = "agent" | "action_type";

/** One colour of the chart: a name and its quantity in each bucket. */
export interface Series {
  name: string;
  quantities: number[];
  total: number;
}

/** Splits a history by agent or action, in the order of the first appearance. */
export function seriesOf(history: History, by: Grouping): Series[] {
  const found = new Map<string, Series>();
  history.buckets.forEach((bucket, i) => {
    for (const group of bucket.groups) {
      const name = group[by] ?? "";
      let series = found.get(name);
      if (!series) {
        series = { name, quantities: history.buckets.map(() => 0), total: 0 };
        found.set(name, series);
      }
      series.quantities[i]! += group.quantity;
      series.total += group.quantity;
    }
  });
  return [...found.values()];
}

/**
 * Where each series' bar ends when they stand on each other: gains above the
 * axis, corrections that take away below it.
 */
export function stack(all: Series[]): number[][] {
  const up: number[] = [];
  const down: number[] = [];
  return all.map(({ quantities }) =>
    quantities.map((quantity, i) => {
      const side = quantity < 0 ? down : up;
      return (side[i] = (side[i] ?? 0) + quantity);
    }),
  );
}

/** Writes buckets and numbers as the reader's language does. */
export class Words {
  private readonly numbers: Intl.NumberFormat;
  private readonly short: Intl.NumberFormat;
  private readonly bucket: Intl.DateTimeFormat;

  constructor(
    locale: Intl.LocalesArgument,
    private readonly history: History,
  ) {
    this.numbers = new Intl.NumberFormat(locale);
    this.short = new Intl.NumberFormat(locale, { notation: "compact" });
    const parts: Record<History["window"], Intl.DateTimeFormatOptions> = {
      hour: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" },
      day: { month: "short", day: "numeric" },
      month: { year: "numeric", month: "short" },
    };
    this.bucket = new Intl.DateTimeFormat(locale, { ...parts[history.window], timeZone: history.timezone });
  }

  number(n: number): string {
    return this.numbers.format(n);
  }

  /** A number for an axis: 12K. */
  tick(n: number): string {
    return this.short.format(n);
  }

  /** When the bucket begins; "" for one that is not there. */
  when(i: number): string {
    const bucket = this.history.buckets[i];
    return bucket ? this.bucket.format(new Date(bucket.start)) : "";
  }

  /** From the first bucket to the last. */
  range(): string {
    const first = this.history.buckets[0];
    const last = this.history.buckets.at(-1);
    return first && last ? this.bucket.formatRange(new Date(first.start), new Date(last.start)) : "";
  }
}
