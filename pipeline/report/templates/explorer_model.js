"use strict";
// The trained model in plain JavaScript: networks, flow, observation models and importance weights. It has no page, so
// that a test can run it under node and compare it with PyTorch. Vectors are arrays of numbers; densities are in nats.

const ExplorerModel = (() => {
  const LOG_2PI = Math.log(2 * Math.PI);

  // --- numbers ---

  const sigmoid = (t) => 1 / (1 + Math.exp(-t));
  const softplus = (t) => Math.max(t, 0) + Math.log1p(Math.exp(-Math.abs(t)));
  const logSigmoid = (t) => -softplus(-t);
  const clamp = (t, low, high) => Math.min(Math.max(t, low), high);
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  function logSumExp(values) {
    const peak = values.reduce((a, b) => Math.max(a, b), -Infinity);
    return Number.isFinite(peak) ? peak + Math.log(sum(values.map((v) => Math.exp(v - peak)))) : peak;
  }

  // log Γ(t) for t > 0: Lanczos' approximation with g = 7 and nine terms, relative error about 1e-15.
  const LANCZOS = [
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
  ];
  function logGamma(t) {
    if (t < 0.5) return Math.log(Math.PI / Math.sin(Math.PI * t)) - logGamma(1 - t);
    let series = LANCZOS[0];
    for (let k = 1; k < 9; k++) series += LANCZOS[k] / (t - 1 + k);
    const base = t + 6.5;
    return 0.5 * LOG_2PI + (t - 0.5) * Math.log(base) - base + Math.log(series);
  }

  // The error function: Press et al., Numerical Recipes, erfcc; absolute error below 1.2e-7.
  const ERFC = [
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587, -0.82215223,
    0.17087277,
  ];
  function erf(t) {
    const u = 1 / (1 + 0.5 * Math.abs(t));
    const tail = u * Math.exp(-t * t + ERFC.reduceRight((total, c) => total * u + c, 0));
    return t >= 0 ? 1 - tail : tail - 1;
  }

  // Independent N(0, 1) numbers; the same seed gives the same ones. Mulberry32, then Box and Muller's transform.
  function normals(seed) {
    let state = seed >>> 0;
    function uniform() {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
    }
    const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
    return { uniform, normal, vector: (length) => Float64Array.from({ length }, normal) };
  }

  // --- weights ---

  function bytesOf(base64) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return bytes;
  }

  // float16 in little-endian order: sign, five bits of exponent, ten of fraction.
  function halfPrecision(bytes) {
    const values = new Float32Array(bytes.length / 2);
    for (let i = 0; i < values.length; i++) {
      const bits = bytes[2 * i] | (bytes[2 * i + 1] << 8);
      const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 0x1f, fraction = bits & 0x3ff;
      values[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
    }
    return values;
  }

  // --- networks ---

  const ACTIVATIONS = {
    elu: (t) => (t > 0 ? t : Math.expm1(t)),
    gelu: (t) => 0.5 * t * (1 + erf(t / Math.SQRT2)),
    relu: (t) => Math.max(t, 0),
    silu: (t) => t * sigmoid(t),
    tanh: Math.tanh,
  };

  function linear({ inputs, outputs, weight, bias }, x) {
    const y = new Float64Array(outputs);
    for (let o = 0, at = 0; o < outputs; o++, at += inputs) {
      let total = bias[o];
      for (let i = 0; i < inputs; i++) total += weight[at + i] * x[i];
      y[o] = total;
    }
    return y;
  }

  function network(layers, activation, x) {
    const bend = ACTIVATIONS[activation];
    return layers.reduce((values, layer, number) => linear(layer, number ? values.map(bend) : values), x);
  }

  function joined(a, b) {
    const both = new Float64Array(a.length + b.length);
    both.set(a);
    both.set(b, a.length);
    return both;
  }

  // --- observation models p(x | z): each has the mean of an image and its log-density ---

  const logistic = {
    // log P(v) of the cell v: the mass of a logistic distribution between its edges; the end cells are unbounded.
    logMass(v, location, scale, levels) {
      let total = 0;
      if (v < levels - 1) total += logSigmoid(((v + 1) / levels - location) / scale);
      if (v > 0) total += logSigmoid((location - v / levels) / scale);
      if (v > 0 && v < levels - 1) total += Math.log(-Math.expm1(-1 / (levels * scale)));
      return total;
    },
    mean(location, scale, levels) {
      let above = 0;
      for (let v = 1; v < levels; v++) above += sigmoid((location - v / levels) / scale);
      return (above + 0.5) / levels;
    },
    scale: (logScale) => Math.exp(clamp(logScale, -7, 7)),
  };

  // Parameters p hold one number of all pixels after another: number k of pixel i is p[k * pixels + i]. Each function
  // is of one pixel; log-densities of discrete models get the log of their cell's width for all pixels at the end.
  const OBSERVATIONS = {
    gaussian: (model) => ({
      mean: (p, i) => sigmoid(p[i]),
      logDensity: (x, p, i) =>
        -0.5 * ((x[i] - sigmoid(p[i])) / model.sigma) ** 2 - Math.log(model.sigma) - 0.5 * LOG_2PI,
    }),
    gaussian_per_pixel: (model) => ({
      mean: (p, i) => sigmoid(p[i]),
      logDensity(x, p, i) {
        const sigma = 1 / (model.levels * Math.sqrt(12)) + softplus(p[model.pixels + i]);
        return -0.5 * ((x[i] - sigmoid(p[i])) / sigma) ** 2 - Math.log(sigma) - 0.5 * LOG_2PI;
      },
    }),
    logistic: (model) => ({
      mean: (p, i) => logistic.mean(p[i], logistic.scale(p[model.pixels + i]), model.levels),
      logDensity: (x, p, i) =>
        logistic.logMass(model.level(x[i]), p[i], logistic.scale(p[model.pixels + i]), model.levels),
    }),
    logistic_mixture: (model) => {
      const { components, pixels, levels } = model;
      const parts = (p, i, f) =>
        Array.from({ length: components }, (_, c) => {
          const location = (c + 0.5) / components + p[(components + c) * pixels + i];
          return f(p[c * pixels + i], location, logistic.scale(p[(2 * components + c) * pixels + i] - 2));
        });
      const total = (p, i) => logSumExp(parts(p, i, (logit) => logit));
      return {
        mean(p, i) {
          const log = total(p, i);
          return sum(parts(p, i, (logit, m, s) => Math.exp(logit - log) * logistic.mean(m, s, levels)));
        },
        logDensity(x, p, i) {
          const v = model.level(x[i]);
          return logSumExp(parts(p, i, (logit, m, s) => logit + logistic.logMass(v, m, s, levels))) - total(p, i);
        },
      };
    },
    bernoulli: (model) => ({
      mean: (p, i) => sigmoid(p[i]),
      logDensity: (x, p, i) => logSigmoid(model.level(x[i]) ? p[i] : -p[i]),
    }),
    beta_binomial: (model) => {
      const n = model.levels - 1;
      const ab = (p, i) => [softplus(p[i]) + 1e-3, softplus(p[model.pixels + i]) + 1e-3];
      const logBeta = (a, b) => logGamma(a) + logGamma(b) - logGamma(a + b);
      return {
        mean(p, i) {
          const [a, b] = ab(p, i);
          return ((n * a) / (a + b) + 0.5) / model.levels;
        },
        logDensity(x, p, i) {
          const v = model.level(x[i]), [a, b] = ab(p, i);
          return -Math.log(n + 1) - logBeta(v + 1, n - v + 1) + logBeta(v + a, n - v + b) - logBeta(a, b);
        },
      };
    },
    categorical: (model) => {
      const logits = (p, i) => Array.from({ length: model.levels }, (_, v) => p[v * model.pixels + i]);
      return {
        mean(p, i) {
          const h = logits(p, i), log = logSumExp(h);
          return sum(h.map((logit, v) => (Math.exp(logit - log) * (v + 0.5)) / model.levels));
        },
        logDensity(x, p, i) {
          const h = logits(p, i);
          return h[model.level(x[i])] - logSumExp(h);
        },
      };
    },
  };
  // A density of these counts the cells' width 1 / levels; bernoulli's is the probability itself.
  const IN_CELLS = ["logistic", "logistic_mixture", "beta_binomial", "categorical"];

  // --- the VAE ---

  // `description` is what `pipeline/report/explorer_model.py` writes. Labels are vectors with a share of each class, so
  // that a path may lead from one class to another; a model that ignores labels takes any.
  function load(description) {
    const numbers = halfPrecision(bytesOf(description.weights));
    let read = 0;
    const take = (count) => numbers.subarray(read, (read += count));
    const layers = (sizes) =>
      sizes.map(([outputs, inputs]) => ({ inputs, outputs, weight: take(outputs * inputs), bias: take(outputs) }));
    const encoder = layers(description.encoder);
    const decoder = layers(description.decoder);
    const couplings = description.couplings.map(layers);
    const { latent, pixels, levels, classes, observation, activation } = description;
    const level = (x) => clamp(Math.floor(x * levels), 0, levels - 1);
    const model = { ...description, level };
    const pixel = OBSERVATIONS[observation](model);
    const withLabel = (values, y) => (classes ? joined(values, y) : values);
    const oneHot = (label) => Float64Array.from({ length: classes }, (_, k) => (k === label ? 1 : 0));

    // q(z | x, y) = N(mean, diag scale²).
    function encode(x, y) {
      const seen = description.discrete ? Float64Array.from(x, (value) => level(value) / (levels - 1)) : x;
      const outputs = network(encoder, activation, withLabel(seen, y));
      return { mean: outputs.slice(0, latent), scale: outputs.slice(latent).map(Math.exp) };
    }

    const parameters = (z, y) => network(decoder, activation, withLabel(z, y));
    const each = (f) => Float64Array.from({ length: pixels }, (_, i) => f(i));
    const mean = (p) => each((i) => pixel.mean(p, i));

    function logLikelihood(x, p) {
      let total = IN_CELLS.includes(observation) ? pixels * Math.log(levels) : 0;
      for (let i = 0; i < pixels; i++) total += pixel.logDensity(x, p, i);
      return total;
    }

    // Real NVP: the two halves of the coordinates change their roles from one coupling to the next.
    const first = Math.floor(latent / 2);
    function coupling(number, given, y) {
      const outputs = network(couplings[number], "silu", withLabel(given, y));
      const half = outputs.length / 2;
      return { logScale: outputs.slice(0, half).map((s) => 2 * Math.tanh(s / 2)), shift: outputs.slice(half) };
    }
    const exchanged = couplings.length % 2 === 1;

    // ε = g⁻¹(z) and log |det ∂ε/∂z|.
    function toNoise(z, y) {
      let given = z.slice(0, first), moved = z.slice(first), logDeterminant = 0;
      couplings.forEach((_, number) => {
        const { logScale, shift } = coupling(number, given, y);
        [given, moved] = [moved.map((value, d) => value * Math.exp(logScale[d]) + shift[d]), given];
        logDeterminant += sum(logScale);
      });
      return { noise: exchanged ? joined(moved, given) : joined(given, moved), logDeterminant };
    }

    // z = g(ε).
    function fromNoise(noise, y) {
      let given = noise.slice(0, first), moved = noise.slice(first);
      if (exchanged) [given, moved] = [moved, given];
      for (let number = couplings.length - 1; number >= 0; number--) {
        [given, moved] = [moved, given];
        const { logScale, shift } = coupling(number, given, y);
        moved = moved.map((value, d) => (value - shift[d]) * Math.exp(-logScale[d]));
      }
      return joined(given, moved);
    }

    function logPrior(z, y) {
      const { noise, logDeterminant } = toNoise(z, y);
      return logDeterminant - 0.5 * sum(noise.map((e) => e * e + LOG_2PI));
    }

    // log w = log p(x | z) + log p(z) − log q(z | x), at z = μ + s ε. Its mean over ε ~ N(0, I) is the ELBO.
    function logWeight(x, q, epsilon, y) {
      const z = q.mean.map((mu, d) => mu + q.scale[d] * epsilon[d]);
      const logQ = sum(epsilon.map((e, d) => -0.5 * (e * e + LOG_2PI) - Math.log(q.scale[d])));
      return logLikelihood(x, parameters(z, y)) + logPrior(z, y) - logQ;
    }

    return {
      ...model, oneHot, encode, parameters, mean, logLikelihood, toNoise, fromNoise, logPrior, logWeight,
      decode: (z, y) => mean(parameters(z, y)),
      generate: (noise, y) => mean(parameters(fromNoise(noise, y), y)),
    };
  }

  // --- importance weights ---

  // log of the mean weight, the mean of the log-weights, the effective sample size, and the largest share of the sum.
  function summary(logW) {
    const total = logSumExp(logW);
    const shares = logW.map((w) => Math.exp(w - total));
    return {
      logMean: total - Math.log(logW.length),
      meanLog: sum(logW) / logW.length,
      ess: 1 / sum(shares.map((share) => share * share)),
      largest: shares.reduce((a, b) => Math.max(a, b), 0),
    };
  }

  // In bins of log w − log(mean w): the share of the samples, and their share of the sum of all weights.
  function histogram(logW, { low, step, bins }) {
    const { logMean } = summary(logW);
    const samples = new Array(bins).fill(0), weight = new Array(bins).fill(0);
    for (const w of logW) {
      const bin = clamp(Math.floor((w - logMean - low) / step), 0, bins - 1);
      samples[bin] += 1 / logW.length;
      weight[bin] += Math.exp(w - logMean) / logW.length;
    }
    return { samples, weight };
  }

  // --- paths ---

  const norm = (a) => Math.sqrt(sum(a.map((value) => value * value)));

  // The point at the fraction t of a great circle from a to b (Shoemake 1985), as in `pipeline/report/latent_paths.py`.
  function slerp(a, b, t) {
    const lengths = [norm(a), norm(b)], length = (1 - t) * lengths[0] + t * lengths[1];
    const unit = [a, b].map((end, k) => end.map((value) => value / Math.max(lengths[k], 1e-12)));
    const angle = Math.acos(clamp(sum(unit[0].map((value, d) => value * unit[1][d])), -1, 1));
    const straight = Math.sin(angle) < 1e-3;
    const fromA = straight ? 1 - t : Math.sin((1 - t) * angle) / Math.sin(angle);
    const fromB = straight ? t : Math.sin(t * angle) / Math.sin(angle);
    return unit[0].map((value, d) => length * (fromA * value + fromB * unit[1][d]));
  }

  return { load, bytesOf, normals, summary, histogram, slerp, clamp };
})();

if (typeof module === "object") module.exports = ExplorerModel;
