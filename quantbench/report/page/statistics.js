"use strict";
// Paired differences in the browser: the standard error of quantbench.statistics, and Student's t interval around it.
// (The command line resamples instead of taking the t distribution; a test holds everything else equal to Python's.)
const MOST_CORRELATION = 0.8, CAUTION = 2, FEWEST_EFFECTIVE = 2.5, FEWEST_SERIAL = 8;

const bytes = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
const decode = (base64) => new Float64Array(bytes(base64).buffer);

// Answers are a bit each, the first item's the highest of the first byte.
function decodeAnswers(base64, count) {
  const packed = bytes(base64);
  return Array.from({ length: count }, (_, index) => (packed[index >> 3] >> (7 - (index & 7))) & 1);
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

// Weighted mean of a - b over common samples, with its standard error, degrees of freedom, interval and p-value.
function pairedDifference(a, b, weights, serial) {
  const count = a.length, total = sum(weights);
  const differences = a.map((value, index) => value - b[index]);
  const estimate = sum(differences.map((value, index) => value * weights[index])) / total;
  const unknown = { estimate, count, stderr: null, low: null, high: null, p: null };
  if (count < 2 || !Number.isFinite(estimate)) return unknown;
  const linear = differences.map((value, index) => estimate + weights[index] * (value - estimate) / (total / count));
  const { stderr, degrees } = meanError(linear, serial && count >= FEWEST_SERIAL);
  if (stderr <= 1e-12 * Math.abs(estimate)) {
    return { ...unknown, stderr: 0, low: estimate, high: estimate, p: estimate === 0 ? 1 : 0 };
  }
  const half = tQuantile(0.975, degrees) * stderr;
  const p = 2 * (1 - tDistribution(Math.abs(estimate) / stderr, degrees));
  return { estimate, count, stderr, degrees, low: estimate - half, high: estimate + half, p };
}

// Error of the mean of a series whose neighbours may be alike; see quantbench/statistics/series.py.
function meanError(series, serial) {
  const count = series.length, mean = sum(series) / count;
  const centred = series.map((value) => value - mean);
  const squares = sum(centred.map((value) => value * value));
  let correlation = 0;
  if (serial && squares > 0) {
    const raw = sum(centred.slice(1).map((value, index) => value * centred[index])) / squares;
    correlation = Math.min(MOST_CORRELATION, Math.max(0, raw + (1 + 3 * raw + CAUTION) / count));
  } else if (serial) {
    correlation = Math.min(MOST_CORRELATION, (1 + CAUTION) / count);
  }
  const inflation = Math.min((1 + correlation) / (1 - correlation), Math.max(1, count / FEWEST_EFFECTIVE));
  return { stderr: Math.sqrt(squares / (count - inflation) * inflation / count), degrees: count / inflation - 1 };
}

// McNemar's exact two-sided test: of the answers that changed, a fair coin decides which way.
function mcnemar(better, worse) {
  const changed = better + worse;
  let tail = 0;
  for (let k = 0; k <= Math.min(better, worse); k++) {
    tail += Math.exp(logGamma(changed + 1) - logGamma(k + 1) - logGamma(changed - k + 1) - changed * Math.LN2);
  }
  return changed ? Math.min(1, 2 * tail) : 1;
}

function tDistribution(t, degrees) {
  const tail = incompleteBeta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2;
  return t > 0 ? 1 - tail : tail;
}

function tQuantile(probability, degrees) {
  let low = 0, high = 1;
  while (tDistribution(high, degrees) < probability) high *= 2;
  for (let step = 0; step < 100; step++) {
    const middle = (low + high) / 2;
    if (tDistribution(middle, degrees) < probability) low = middle; else high = middle;
  }
  return (low + high) / 2;
}

// Regularised incomplete beta function by its continued fraction, evaluated by Lentz's method (DLMF 8.17.22).
function incompleteBeta(x, a, b) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)) / a;
  let numerator = 1, denominator = 1 / (1 - (a + b) * x / (a + 1)), value = denominator;
  for (let m = 1; m < 500; m++) {
    for (const factor of [
      m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
      -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
    ]) {
      denominator = 1 / (1 + factor * denominator);
      numerator = 1 + factor / numerator;
      value *= denominator * numerator;
    }
    if (Math.abs(denominator * numerator - 1) < 1e-15) break;
  }
  return front * value;
}

// Stirling's series (DLMF 5.11.1) beyond 12, and the recurrence down to the argument.
function logGamma(x) {
  let shift = 0;
  for (; x < 12; x++) shift += Math.log(x);
  const series = 1 / (12 * x) - 1 / (360 * x ** 3) + 1 / (1260 * x ** 5) - 1 / (1680 * x ** 7);
  return (x - 0.5) * Math.log(x) - x + Math.log(2 * Math.PI) / 2 + series - shift;
}
