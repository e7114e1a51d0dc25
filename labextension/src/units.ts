// Numbers as people read them, as nbkv/show/units.py writes them; what is not known is a dash.

const UNKNOWN = '–';

function digits(value: number): string {
  return value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) {
    return UNKNOWN;
  }
  if (value >= 100) {
    return `${Math.floor(value / 60)} min ${Math.floor(value) % 60} s`;
  }
  if (value >= 1) {
    return `${digits(value)} s`;
  }
  return value >= 1e-3 || value === 0 ? `${value === 0 ? '0' : digits(value * 1e3)} ms` : `${(value * 1e6).toFixed(0)} µs`;
}

export function share(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) {
    return UNKNOWN;
  }
  if (value > 0 && value < 0.001) {
    return '<0.1 %';
  }
  if (value > 0.999 && value < 1) {
    return '>99.9 %';
  }
  const nearAnEnd = (value > 0 && value < 0.01) || (value > 0.99 && value < 1);
  return `${(100 * value).toFixed(nearAnEnd ? 1 : 0)} %`;
}

export function size(bytes: number): string {
  const units: [string, number][] = [
    ['TB', 1e12],
    ['GB', 1e9],
    ['MB', 1e6],
    ['kB', 1e3]
  ];
  const fit = units.find(([, scale]) => bytes >= scale);
  return fit ? `${digits(bytes / fit[1])} ${fit[0]}` : `${bytes.toFixed(0)} B`;
}

export function count(value: number): string {
  return value.toLocaleString('en');
}

export function plural(n: number, noun: string, nouns = `${noun}s`): string {
  return `${count(n)} ${n === 1 ? noun : nouns}`;
}

export function rate(perSecond: number): string {
  return perSecond > 0 ? `${perSecond < 10 ? digits(perSecond) : count(Math.round(perSecond))} tokens/s` : '';
}
