"use strict";
// How the explorer shows things: numbers as text, images on canvases, plots as SVG. It knows neither model nor controls.

const ExplorerPlots = (() => {
  const { clamp } = ExplorerModel;

  // --- numbers ---

  function number(value, digits = 1) {
    const text = value.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  }
  const orNone = (value, digits) => (value === null ? "–" : number(value, digits));
  const percent = (share) => `${number(100 * share, share > 0 && share < 0.0995 ? 1 : 0)} %`;
  const subscript = (n) => String(n).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]);

  // --- images ---

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  // Draw pixels in [0, 1], one of the canvas each: 0 has the colour of the page, 1 that of its text. An image in colour
  // has its red pixels first, then the green, then the blue ones. `place` counts the images of a row of `images`.
  function show(canvas, pixels, { width, height }, place = 0, images = 1) {
    if (canvas.width !== images * width) canvas.width = images * width;
    if (canvas.height !== height) canvas.height = height;
    const [ground, ink] = ["--ground", "--ink"].map((name) => rgb(style(name)));
    const context = canvas.getContext("2d");
    const content = context.createImageData(width, height);
    const size = width * height, coloured = pixels.length === 3 * size;
    for (let i = 0; i < size; i++) {
      for (let k = 0; k < 3; k++) {
        const t = clamp(pixels[coloured ? k * size + i : i], 0, 1);
        content.data[4 * i + k] = coloured ? 255 * t : ground[k] + t * (ink[k] - ground[k]);
      }
      content.data[4 * i + 3] = 255;
    }
    context.putImageData(content, place * width, 0);
  }

  // The context of a canvas whose coordinates are CSS pixels, sharp on every screen.
  function prepared(canvas, width, height) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = false;
    return context;
  }

  function disc(context, [x, y], radius, fill) {
    context.fillStyle = fill;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }

  // --- plots ---

  const line = (x1, y1, x2, y2, stroke = "var(--line)", more = "") =>
    `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${stroke}" ${more}/>`;
  const rect = (x, y, width, height, fill) =>
    `<rect x="${x}" y="${y}" width="${width}" height="${Math.max(height, 0)}" fill="${fill}"/>`;
  const text = (x, y, content, anchor = "middle", fill = "var(--soft)") =>
    `<text x="${x}" y="${y}" text-anchor="${anchor}" style="fill:${fill}">${content}</text>`;

  function plot(svg, width, height, parts) {
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.innerHTML = parts.join("");
  }

  // Bars μ with whiskers μ ± s, one for each coordinate.
  function encoding(svg, { mean, scale }) {
    const width = 320, height = 190, left = 24, middle = 86;
    const most = Math.max(3, ...mean.map((mu, d) => Math.abs(mu) + scale[d]));
    const place = (value) => middle - (value / most) * 80;
    const step = (width - left) / mean.length;
    const parts = [-2, 0, 2].map(
      (tick) => line(left, place(tick), width, place(tick)) + text(left - 5, place(tick) + 4, number(tick, 0), "end"),
    );
    mean.forEach((mu, d) => {
      const centre = left + (d + 0.5) * step;
      const top = Math.min(place(mu), place(0)), tall = Math.abs(place(mu) - place(0));
      parts.push(rect(centre - 0.3 * step, top, 0.6 * step, tall, "var(--blue)"));
      parts.push(line(centre, place(mu - scale[d]), centre, place(mu + scale[d]), "var(--ink)", 'stroke-width="1.5"'));
      if (d % Math.ceil(mean.length / 16) === 0) parts.push(text(centre, height - 6, d + 1));
    });
    plot(svg, width, height, parts);
  }

  // Above: the share of the samples in each bin. Below: their share of the sum of the weights.
  function weights(svg, { samples, weight }, { low, step, bins }) {
    const width = 320, height = 176, axis = 72, tall = 62;
    const bar = width / bins, most = Math.max(...samples, ...weight);
    const place = (nats) => ((nats - low) / step) * bar;
    const parts = [];
    for (let b = 0; b < bins; b++) {
      const up = (samples[b] / most) * tall, down = (weight[b] / most) * tall;
      parts.push(rect(b * bar + 0.5, axis - 1 - up, bar - 1, up, "var(--blue)"));
      parts.push(rect(b * bar + 0.5, axis + 1, bar - 1, down, "var(--orange)"));
    }
    parts.push(line(0, axis, width, axis, "var(--soft)"));
    parts.push(line(place(0), axis - tall, place(0), axis + tall, "var(--soft)", 'stroke-dasharray="2 3"'));
    for (const tick of [-8, -4, 0, 4, 8]) parts.push(text(place(tick), height - 22, number(tick, 0)));
    parts.push(text(0, height - 22, `≤ ${number(low, 0)}`, "start"));
    parts.push(text(width / 2, height - 5, "log w − log(mean w), nats"));
    parts.push(text(14, 16, "share of the samples", "start", "var(--blue)"));
    parts.push(text(14, axis + tall - 4, "share of the sum", "start", "var(--orange)"));
    plot(svg, width, height, parts);
  }

  // Two functions of σ: the log-density of an image, and the most that any image can have. `best` maximises the first.
  function overSigma(svg, { density, ceiling, best, own, chosen }) {
    const width = 340, height = 200, left = 44, bottom = 168, least = -6; // log σ from −6 to 0
    const most = Math.max(0.75 * ceiling(Math.exp(least)), 1.1 * density(best)), low = -0.6 * most;
    const across = (sigma) => left + ((Math.log(sigma) - least) / -least) * (width - left - 6);
    const up = (nats) => bottom - ((clamp(nats, low, most) - low) / (most - low)) * (bottom - 8);
    const curve = (f, more) => {
      const sigmas = Array.from({ length: 121 }, (_, k) => Math.exp(least + k / 20));
      const inside = sigmas.filter((sigma) => f(sigma) >= low && f(sigma) <= most);
      const points = inside.map((sigma) => `${across(sigma).toFixed(1)},${up(f(sigma)).toFixed(1)}`).join(" ");
      return `<polyline points="${points}" fill="none" ${more}/>`;
    };
    const unit = 10 ** Math.floor(Math.log10(most));
    const spacing = most / unit > 4 ? 2 * unit : most / unit > 2 ? unit : unit / 2;
    const parts = [];
    for (let tick = Math.ceil(low / spacing) * spacing; tick <= most; tick += spacing) {
      parts.push(line(left, up(tick), width, up(tick)) + text(left - 5, up(tick) + 4, number(tick, 0), "end"));
    }
    for (const tick of [0.003, 0.01, 0.03, 0.1, 0.3, 1]) parts.push(text(across(tick), bottom + 15, tick));
    parts.push(text((left + width) / 2, height - 3, "σ"));
    parts.push(curve(ceiling, 'stroke="var(--soft)" stroke-dasharray="4 4"'));
    parts.push(curve(density, 'stroke="var(--blue)" stroke-width="2.5"'));
    parts.push(line(across(own), 8, across(own), bottom, "var(--soft)"));
    parts.push(text(across(own) + 5, bottom - 6, "the model's σ", "start"));
    parts.push(`<circle cx="${across(chosen)}" cy="${up(density(chosen))}" r="6" fill="var(--orange)"/>`);
    plot(svg, width, height, parts);
  }

  return { number, orNone, percent, subscript, style, show, prepared, disc, encoding, weights, overSigma };
})();
