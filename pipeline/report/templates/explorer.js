"use strict";
// The page of the explorer: what the controls change. The model itself is in explorer_model.js.

(() => {
  const { load, bytesOf, normals, summary, histogram, slerp, clamp } = ExplorerModel;
  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const model = load(data.model);
  const { height, width, measured, classes } = data;
  const { pixels, levels, latent } = model;
  const conditional = model.classes > 0;
  const symbol = model.couplings.length ? "ε" : "z";
  const quantity = data.binarised ? "log P(v" : "log p(x";
  const target = quantity + (conditional ? " | y)" : ")");
  const LIVE_SAMPLES = 128; // importance samples of the encoder, drawn in the page
  const AT_ONCE = 16; // of these between two looks at the controls

  // --- images ---

  const bytes = bytesOf(data.images);
  const count = data.labels.length;
  // Noise of dequantisation, the same for every image. Its bits do not reach the next grey level.
  const random = normals(1);
  const noise = Float64Array.from({ length: pixels }, () => (Math.floor(random.uniform() * 4096) + 0.5) / 4096);
  const dequantised = (v) => Float64Array.from(v, (value, i) => (value + noise[i]) / levels);
  const testImage = (index) => Array.from(bytes.subarray(index * pixels, (index + 1) * pixels));
  const grey = (v) => v.map((value) => value / (levels - 1));

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  // Draw pixels in [0, 1] on a canvas: 0 has the colour of the page, 1 that of its text.
  function show(canvas, image, left = 0, columns = 1) {
    if (canvas.width !== columns * width) canvas.width = columns * width;
    if (canvas.height !== height) canvas.height = height;
    const [ground, ink] = ["--ground", "--ink"].map((name) => rgb(style(name)));
    const context = canvas.getContext("2d"), content = context.createImageData(width, height);
    image.forEach((value, i) => {
      const t = clamp(value, 0, 1);
      for (let k = 0; k < 3; k++) content.data[4 * i + k] = ground[k] + t * (ink[k] - ground[k]);
      content.data[4 * i + 3] = 255;
    });
    context.putImageData(content, left, 0);
  }

  // A canvas with its own coordinates in CSS pixels, sharp on every screen.
  function prepared(canvas, w, h) {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = false;
    return context;
  }

  // --- numbers and text ---

  const number = (value, digits = 1) => {
    const text = value.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  };
  const orNone = (value, digits) => (value === null ? "–" : number(value, digits));
  const percent = (share) => `${number(100 * share, share > 0 && share < 0.0995 ? 1 : 0)} %`;
  const subscript = (n) => String(n).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]);
  const colour = (label) => {
    const chosen = data.colours[classes.indexOf(label) % data.colours.length];
    return chosen === "#000000" ? style("--ink") : chosen;
  };

  // --- the image in the first panel ---

  const state = {
    v: [], // grey levels of the image
    test: null, // its number among the test images; null of a drawing
    chosenLabel: null, // null: the likeliest label
    label: classes.find((label) => data.shares[label] > 0) ?? 0,
    x: null,
    q: null,
    mean: null, // f(μ(x))
    weights: null, // log-weights of the encoder's samples
  };
  let pending = 0;

  const encodingNoise = (q, y) => model.toNoise(q.mean, y).noise;
  const labelVector = (label) => model.oneHot(label);

  function setImage(v, test) {
    Object.assign(state, { v, test, weights: null });
    update();
  }

  // The label with the largest ELBO plus log p(y), by a few samples with common noise.
  function likeliestLabel(x) {
    let best = null;
    data.shares.forEach((share, label) => {
      if (share === 0) return;
      const y = labelVector(label), q = model.encode(x, y), draws = normals(2);
      let total = Math.log(share);
      for (let k = 0; k < 2; k++) total += model.logWeight(x, q, draws.vector(latent), y) / 2;
      if (best === null || total > best.total) best = { total, label };
    });
    return best.label;
  }

  function update() {
    clearTimeout(pending);
    state.x = dequantised(state.v);
    const own = state.test === null ? null : data.labels[state.test];
    // A drawing keeps its label until the pen rests: to find the likeliest takes many evaluations.
    state.label = state.chosenLabel ?? own ?? state.label;
    encode();
    pending = setTimeout(() => {
      if (conditional && state.chosenLabel === null && own === null) {
        state.label = likeliestLabel(state.x);
        encode();
      }
      weigh([], normals(3));
    }, 200);
  }

  function encode() {
    const y = labelVector(state.label);
    state.q = model.encode(state.x, y);
    state.mean = model.decode(state.q.mean, y);
    if (conditional) find("given").querySelector("span").textContent =
      state.chosenLabel !== null ? "automatic" : state.test !== null ? `its own: ${state.label}` : `likeliest: ${state.label}`;
    show(find("drawing"), grey(state.v));
    show(find("reconstruction"), state.mean);
    find("source").textContent =
      state.test === null ? "your drawing" : `test image ${state.test + 1} of ${count}, class ${data.labels[state.test]}`;
    drawEncoding();
    drawDensity();
    drawSigma();
    drawCursor();
  }

  // Importance samples of the encoder, a few at a time.
  function weigh(logW, draws) {
    const y = labelVector(state.label);
    for (let k = 0; k < AT_ONCE; k++) logW.push(model.logWeight(state.x, state.q, draws.vector(latent), y));
    if (logW.length < LIVE_SAMPLES) {
      pending = setTimeout(() => weigh(logW, draws));
      return;
    }
    state.weights = logW;
    drawDensity();
  }

  // --- plots in SVG ---

  const line = (x1, y1, x2, y2, stroke = "var(--line)", more = "") =>
    `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${stroke}" ${more}/>`;
  const rect = (x, y, w, h, fill) => `<rect x="${x}" y="${y}" width="${w}" height="${Math.max(h, 0)}" fill="${fill}"/>`;
  const text = (x, y, content, anchor = "middle", more = "") =>
    `<text x="${x}" y="${y}" text-anchor="${anchor}" ${more}>${content}</text>`;

  function plot(svg, w, h, content) {
    svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
    svg.innerHTML = content;
  }

  function drawEncoding() {
    const w = 320, h = 190, left = 24, middle = 86;
    const most = Math.max(3, ...state.q.mean.map((mu, d) => Math.abs(mu) + state.q.scale[d]));
    const place = (value) => middle - (value / most) * 80;
    let content = [-2, 0, 2].map((t) => line(left, place(t), w, place(t)) + text(left - 5, place(t) + 4, number(t, 0), "end")).join("");
    const step = (w - left) / latent;
    for (let d = 0; d < latent; d++) {
      const mu = state.q.mean[d], s = state.q.scale[d], centre = left + (d + 0.5) * step;
      content += rect(centre - step * 0.3, Math.min(place(mu), place(0)), step * 0.6, Math.abs(place(mu) - place(0)), "var(--blue)");
      content += line(centre, place(mu - s), centre, place(mu + s), "var(--ink)", 'stroke-width="1.5"');
      if (d % Math.ceil(latent / 16) === 0) content += text(centre, h - 6, d + 1);
    }
    plot(find("encoding"), w, h, content);
  }

  // Above: the share of the samples in each bin. Below: their share of the sum of the weights.
  function drawHistogram(svg, { samples, weight }) {
    const { low, step, bins } = data.bins;
    const w = 320, h = 176, axis = 72, tall = 62;
    const most = Math.max(...samples, ...weight);
    const bar = w / bins, place = (nats) => ((nats - low) / step) * bar;
    let content = "";
    for (let b = 0; b < bins; b++) {
      const up = (samples[b] / most) * tall, down = (weight[b] / most) * tall;
      content += rect(b * bar + 0.5, axis - 1 - up, bar - 1, up, "var(--blue)") + rect(b * bar + 0.5, axis + 1, bar - 1, down, "var(--orange)");
    }
    content += line(0, axis, w, axis, "var(--soft)") + line(place(0), axis - tall, place(0), axis + tall, "var(--soft)", 'stroke-dasharray="2 3"');
    for (const t of [-8, -4, 0, 4, 8]) content += text(place(t), h - 22, number(t, 0));
    content += text(0, h - 22, `≤ ${number(low, 0)}`, "start");
    content += text(w / 2, h - 5, "log w − log(mean w), nats");
    content += text(14, 16, "share of the samples", "start", 'style="fill:var(--blue)"') + text(14, axis + tall - 4, "share of the sum", "start", 'style="fill:var(--orange)"');
    plot(svg, w, h, content);
  }

  const largestText = (share) => `the largest has ${percent(share)} of the sum`;

  function drawDensity() {
    const live = state.weights && summary(state.weights);
    const finite = live && Number.isFinite(live.logMean);
    const rows = [];
    // What was measured is of the image with its own label.
    const known = state.test !== null && (!conditional || state.label === data.labels[state.test]);
    if (known) {
      const of = (name) => measured[name][state.test];
      const verdict = of("trusted") ? '<span class="good">✓ trusted</span>' : '<span class="bad">✕ not trusted</span>';
      const short = of("value") === null || of("elbo") === null ? "" : `, ${number(of("value") - of("elbo"))} nats below`;
      rows.push([target, `<b>${orNone(of("value"), 1)}</b> ± ${orNone(of("error"), 2)} nats, measured &ensp;${verdict}`]);
      rows.push(["ELBO", `${orNone(of("elbo"), 1)} nats, a lower bound${short}`]);
      if (conditional) rows.push([`${quantity})`, `${orNone(of("sum"), 1)} nats, summed over all labels`]);
    } else {
      const beaten = measured.elbo.filter((elbo) => elbo !== null && finite && elbo < live.meanLog).length;
      rows.push(["ELBO", !live ? "…" : !finite ? "not finite" :
        `<b>${number(live.meanLog)}</b> nats, a lower bound on ${target}; above that of ${percent(beaten / count)} of the test images`]);
    }
    find("density").innerHTML = rows.map(([name, value]) => `<dt>${name}</dt><dd>${value}</dd>`).join("");

    const shown = known ? measured.histogram[state.test] : null;
    find("weights").hidden = !shown && !finite;
    find("fitted").hidden = !shown;
    find("live").hidden = !finite;
    if (shown) {
      drawHistogram(find("fitted").querySelector("svg"), shown);
      const [ess, samples, khat] = ["ess", "samples", "khat"].map((name) => measured[name][state.test]);
      find("fitted").querySelector("figcaption").innerHTML =
        `<b>Proposal fitted to this image</b>: ${orNone(ess, 0)} effective samples of ${samples}; ${largestText(measured.largest[state.test])}; k̂ = ${orNone(khat, 2)}.`;
    }
    if (finite) {
      drawHistogram(find("live").querySelector("svg"), histogram(state.weights, data.bins));
      find("live").querySelector("figcaption").innerHTML =
        `<b>The encoder as proposal</b>, drawn now: ${number(live.ess, 1)} effective samples of ${LIVE_SAMPLES}; ${largestText(live.largest)}.`;
    }
  }

  // --- drawing ---

  const drawing = find("drawing");
  const pen = { down: false, x: width / 2, y: height / 2 };
  // A stroke of MNIST is about three of 28 pixels wide.
  const radius = Math.max(0.55, height / 24);

  function dab(x, y) {
    state.v = state.v.map((old, i) => {
      const distance = Math.hypot((i % width) + 0.5 - x, Math.floor(i / width) + 0.5 - y);
      return Math.max(old, Math.round((levels - 1) * clamp(radius + 0.5 - distance, 0, 1)));
    });
  }

  function stroke(x, y) {
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(x - pen.x, y - pen.y)));
    for (let k = 1; k <= steps; k++) dab(pen.x + ((x - pen.x) * k) / steps, pen.y + ((y - pen.y) * k) / steps);
    Object.assign(pen, { x, y });
    setImage(state.v, null);
  }

  // Where a pointer is on a canvas, as fractions of its width and height.
  function at(canvas, event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  drawing.addEventListener("pointerdown", (event) => {
    const [x, y] = at(drawing, event);
    Object.assign(pen, { down: true, x: x * width, y: y * height });
    if (event.pointerId && event.isTrusted) drawing.setPointerCapture(event.pointerId);
    stroke(pen.x, pen.y);
  });
  drawing.addEventListener("pointermove", (event) => {
    const [x, y] = at(drawing, event);
    if (pen.down) stroke(x * width, y * height);
  });
  for (const name of ["pointerup", "pointercancel"]) drawing.addEventListener(name, () => { pen.down = false; });

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const keyboardPen = { down: false };
  function drawCursor() {
    if (document.activeElement !== drawing || !drawing.matches(":focus-visible")) return;
    const context = drawing.getContext("2d");
    context.fillStyle = style(keyboardPen.down ? "--orange" : "--blue");
    context.fillRect(Math.floor(pen.x), Math.floor(pen.y), 1, 1);
  }
  drawing.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow && event.key !== " ") return;
    event.preventDefault();
    if (event.key === " ") keyboardPen.down = !keyboardPen.down;
    const x = clamp(pen.x + (arrow?.[0] ?? 0), 0.5, width - 0.5), y = clamp(pen.y + (arrow?.[1] ?? 0), 0.5, height - 0.5);
    if (keyboardPen.down) stroke(x, y);
    else Object.assign(pen, { x, y });
    show(drawing, grey(state.v));
    drawCursor();
  });
  drawing.addEventListener("focus", drawCursor);
  drawing.addEventListener("blur", () => { keyboardPen.down = false; show(drawing, grey(state.v)); });

  find("clear").addEventListener("click", () => setImage(new Array(pixels).fill(0), null));
  // Move the centre of mass to the middle, as in MNIST.
  find("centre").addEventListener("click", () => {
    const total = state.v.reduce((a, b) => a + b, 0);
    if (total === 0) return;
    const mean = (f) => state.v.reduce((a, value, i) => a + value * f(i), 0) / total;
    const dx = Math.round(mean((i) => i % width) - (width - 1) / 2), dy = Math.round(mean((i) => Math.floor(i / width)) - (height - 1) / 2);
    const old = state.v;
    if (dx || dy) setImage(old.map((_, i) => {
      const column = (i % width) + dx, row = Math.floor(i / width) + dy;
      return column >= 0 && column < width && row >= 0 && row < height ? old[row * width + column] : 0;
    }), null);
  });
  function step(by) {
    const index = ((state.test ?? (by > 0 ? -1 : count)) + by + count) % count;
    setImage(testImage(index), index);
  }
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));

  // --- the picker of test images ---

  const picker = find("picker"), sheet = find("images");
  const cell = 32, gap = 4;
  let columns = 20, candidate = 0, take = () => {};

  function drawSheet() {
    columns = clamp(Math.floor((Math.min(window.innerWidth * 0.96, 704) - 44) / cell), 4, 20);
    const rows = Math.ceil(count / columns);
    sheet.style.width = `${columns * cell}px`;
    const context = prepared(sheet, columns * cell, rows * cell), small = document.createElement("canvas");
    for (let i = 0; i < count; i++) {
      const left = (i % columns) * cell, top = Math.floor(i / columns) * cell;
      show(small, grey(testImage(i)));
      context.drawImage(small, left + gap / 2, top + gap / 2, cell - gap, cell - gap);
      if (!measured.trusted[i]) {
        context.fillStyle = style("--orange");
        context.fillRect(left + cell - 10, top + 2, 8, 8);
      }
      if (i === candidate) {
        context.strokeStyle = style("--blue");
        context.lineWidth = 3;
        context.strokeRect(left + 1.5, top + 1.5, cell - 3, cell - 3);
      }
    }
    const verdict = measured.trusted[candidate] ? "trusted" : "not trusted";
    find("picker-text").textContent = `Image ${candidate + 1}, class ${data.labels[candidate]}: ${target} = ${orNone(measured.value[candidate], 1)} nats, ${verdict}.` +
      (measured.trusted.every(Boolean) ? "" : " Orange corner: not trusted.");
    sheet.setAttribute("aria-valuemin", 1);
    sheet.setAttribute("aria-valuemax", count);
    sheet.setAttribute("aria-valuenow", candidate + 1);
    sheet.setAttribute("aria-valuetext", find("picker-text").textContent);
  }

  function pick(title, from, then) {
    candidate = from;
    take = then;
    find("picker-title").textContent = title;
    picker.showModal();
    drawSheet();
    sheet.focus();
  }

  function under(event) {
    const [x, y] = at(sheet, event);
    const index = Math.floor(y * Math.ceil(count / columns)) * columns + Math.floor(x * columns);
    return clamp(index, 0, count - 1);
  }
  sheet.addEventListener("pointermove", (event) => {
    if (under(event) !== candidate) { candidate = under(event); drawSheet(); }
  });
  sheet.addEventListener("click", (event) => {
    candidate = under(event);
    picker.close();
    take(candidate);
  });
  sheet.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (arrow) candidate = clamp(candidate + arrow[0] + columns * arrow[1], 0, count - 1);
    else if (event.key === "Enter") { picker.close(); take(candidate); }
    else return;
    event.preventDefault();
    if (arrow) drawSheet();
  });
  find("close").addEventListener("click", () => picker.close());
  find("choose").addEventListener("click", () => pick("Pick a test image", state.test ?? 0, (index) => setImage(testImage(index), index)));

  // --- labels ---

  // Radio buttons; each choice is a value and its text.
  function choices(id, options, chosen, then) {
    for (const [value, content] of options) {
      const label = document.createElement("label"), input = document.createElement("input"), span = document.createElement("span");
      Object.assign(input, { type: "radio", name: id, value: String(value), checked: value === chosen });
      span.textContent = content;
      input.addEventListener("change", () => then(value));
      label.append(input, span);
      find(id).append(label);
    }
  }
  const known = conditional ? classes.filter((label) => data.shares[label] > 0) : [];
  if (conditional) {
    choices("given", [[null, ""], ...known.map((label) => [label, label])], null, (label) => { state.chosenLabel = label; state.weights = null; update(); });
    choices("label", known.map((label) => [label, label]), known[0], (label) => { place.label = label; drawPlace(); });
  }

  // --- the latent space ---

  const map = find("map"), { points, basis, order } = data.map;
  const place = { noise: new Float64Array(latent), label: known[0] ?? 0 };
  const distances = points.map((point) => Math.max(...point.map(Math.abs))).sort((a, b) => a - b);
  const reach = clamp(1.1 * distances[Math.floor(0.99 * (points.length - 1))], 2.5, 8); // half the width of the map
  const side = 400; // the map's own coordinates
  const onMap = ([a, b]) => [((a + reach) / (2 * reach)) * side, ((reach - b) / (2 * reach)) * side];
  const inPlane = (noise) => basis.map((direction) => direction.reduce((total, value, d) => total + value * noise[d], 0));
  // Of the labels of all models, only those of conditional ones change the noise of an encoding.
  const testNoise = (index) => {
    const y = labelVector(data.labels[index]);
    return encodingNoise(model.encode(dequantised(testImage(index)), y), y);
  };
  const draws = normals(4);
  let background = null;

  function drawBackground() {
    background = document.createElement("canvas");
    const context = prepared(background, side, side);
    const disc = (point, size, fill) => {
      const [x, y] = onMap(point);
      context.fillStyle = fill;
      context.beginPath();
      context.arc(x, y, size, 0, 2 * Math.PI);
      context.fill();
    };
    context.strokeStyle = style("--line");
    for (const radius of [1, 2, 3]) {
      context.beginPath();
      context.arc(...onMap([0, 0]), (radius / (2 * reach)) * side, 0, 2 * Math.PI);
      context.stroke();
    }
    context.globalAlpha = 0.45;
    points.forEach((point, i) => i >= count && disc(point, 1.8, colour(data.map.labels[i])));
    context.globalAlpha = 1;
    points.slice(0, count).forEach((point, i) => {
      disc(point, 4.2, style("--ground"));
      disc(point, 3.2, colour(data.map.labels[i]));
    });
    if (data.map.separated) for (const label of classes) {
      const own = points.filter((_, i) => data.map.labels[i] === label);
      if (!own.length) continue;
      const [x, y] = onMap([0, 1].map((k) => own.reduce((total, point) => total + point[k], 0) / own.length));
      Object.assign(context, { font: "bold 17px system-ui, sans-serif", textAlign: "center", textBaseline: "middle", lineWidth: 5, lineJoin: "round" });
      context.strokeStyle = style("--ground");
      context.strokeText(label, x, y);
      context.fillStyle = style("--ink");
      context.fillText(label, x, y);
    }
  }

  function drawPlace() {
    const context = prepared(map, side, side);
    context.drawImage(background, 0, 0, side, side);
    const [x, y] = onMap(inPlane(place.noise));
    for (const [stroke, lineWidth] of [["--ground", 5], ["--ink", 2]]) {
      Object.assign(context, { strokeStyle: style(stroke), lineWidth });
      context.beginPath();
      context.arc(x, y, 7, 0, 2 * Math.PI);
      context.moveTo(x - 12, y); context.lineTo(x - 3, y); context.moveTo(x + 3, y); context.lineTo(x + 12, y);
      context.moveTo(x, y - 12); context.lineTo(x, y - 3); context.moveTo(x, y + 3); context.lineTo(x, y + 12);
      context.stroke();
    }
    show(find("decoded"), model.generate(place.noise, labelVector(place.label)));
    order.forEach((d) => {
      const input = find(`coordinate-${d}`);
      input.value = place.noise[d];
      input.nextElementSibling.textContent = number(place.noise[d]);
    });
  }

  // Move within the plane of the map; what is outside the plane stays.
  function moveTo(target) {
    const now = inPlane(place.noise);
    place.noise = place.noise.map((value, d) => value + basis.reduce((total, direction, k) => total + direction[d] * (target[k] - now[k]), 0));
    drawPlace();
  }
  function setNoise(noise, label) {
    place.noise = noise;
    if (conditional && known.includes(label)) {
      place.label = label;
      find("label").querySelector(`input[value="${label}"]`).checked = true;
    }
    drawPlace();
  }
  function jump(target) {
    const distance = ([a, b]) => Math.hypot(a - target[0], b - target[1]);
    let nearest = 0;
    for (let i = 1; i < count; i++) if (distance(points[i]) < distance(points[nearest])) nearest = i;
    setNoise(testNoise(nearest), data.labels[nearest]);
  }
  const pointed = (event) => {
    const [x, y] = at(map, event);
    return [(2 * x - 1) * reach, (1 - 2 * y) * reach];
  };
  // After a jump the mouse has to leave the point before it moves on.
  let hold = null;
  map.addEventListener("pointermove", (event) => {
    const target = pointed(event);
    if (hold && Math.hypot(hold[0] - target[0], hold[1] - target[1]) < 0.05 * reach) return;
    hold = null;
    moveTo(target);
  });
  map.addEventListener("click", (event) => { hold = pointed(event); jump(hold); });
  map.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key], size = event.shiftKey ? 0.5 : 0.1, now = inPlane(place.noise);
    if (arrow) moveTo([now[0] + size * arrow[0], now[1] - size * arrow[1]]);
    else if (event.key === "Enter") jump(now);
    else return;
    event.preventDefault();
  });

  for (const d of order) {
    const label = document.createElement("label");
    label.className = "slider";
    label.innerHTML = `<span>${symbol}${subscript(d + 1)}</span><input type="range" id="coordinate-${d}" min="-4" max="4" step="0.05"><output></output>`;
    label.querySelector("input").addEventListener("input", (event) => { place.noise[d] = Number(event.target.value); drawPlace(); });
    find("sliders").append(label);
  }
  find("sample").addEventListener("click", () => setNoise(draws.vector(latent)));
  find("origin").addEventListener("click", () => setNoise(new Float64Array(latent)));
  find("from-drawing").addEventListener("click", () => setNoise(encodingNoise(state.q, labelVector(state.label)), state.label));
  find("plane").textContent = latent === 1
    ? `Encodings of test images: ${symbol} from left to right, their class as the height.`
    : data.map.separated
      ? "Encodings of test images, in the plane that separates the classes best."
      : `Encodings of test images: coordinates ${[...order.slice(0, 2)].sort((a, b) => a - b).map((d) => symbol + subscript(d + 1)).join(" and ")}.` +
        (conditional ? " The classes lie over each other, because the label says the class already." : "");

  function drawKey() {
    find("key").replaceChildren(...classes.map((label) => {
      const entry = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = colour(label);
      entry.append(dot, String(label));
      return entry;
    }));
  }

  // --- a path between two images ---

  const ends = { start: 0, end: Math.max(1, data.labels.findIndex((label) => label !== data.labels[0])) % count };
  const FRAMES = 9;
  let playing = null;
  const pathLabel = (t) => {
    const [a, b] = ["start", "end"].map((name) => labelVector(data.labels[ends[name]]));
    return a.map((value, k) => (1 - t) * value + t * b[k]);
  };
  let endNoise = [];
  const onPath = (t) => model.generate(slerp(endNoise[0], endNoise[1], t), pathLabel(t));

  function drawPath() {
    endNoise = ["start", "end"].map((name) => testNoise(ends[name]));
    for (const name of ["start", "end"]) show(find(name).querySelector("canvas"), grey(testImage(ends[name])));
    for (let k = 0; k < FRAMES; k++) show(find("film"), onPath(k / (FRAMES - 1)), k * width, FRAMES);
    drawFraction();
  }
  function drawFraction() {
    const t = Number(find("fraction").value);
    show(find("between"), onPath(t));
    find("between-text").textContent = `${percent(t)} of the way from a ${data.labels[ends.start]} to a ${data.labels[ends.end]}`;
  }
  function stop() {
    clearTimeout(playing);
    playing = null;
    find("play").textContent = "Play";
  }
  function play(began) {
    const t = clamp((performance.now() - began) / 2500, 0, 1);
    find("fraction").value = t;
    drawFraction();
    if (t < 1) playing = setTimeout(() => play(began), 30);
    else stop();
  }
  find("play").addEventListener("click", () => {
    if (playing !== null) { stop(); return; }
    find("play").textContent = "Stop";
    play(performance.now());
  });
  find("fraction").addEventListener("input", () => { stop(); drawFraction(); });
  for (const [name, title] of [["start", "Pick the first image"], ["end", "Pick the last image"]])
    find(name).addEventListener("click", () => pick(title, ends[name], (index) => { stop(); ends[name] = index; drawPath(); }));

  // --- σ ---

  const fixed = normals(5).vector(pixels);
  function drawSigma() {
    if (model.observation !== "gaussian") return;
    const { mean } = state;
    const squares = mean.reduce((total, f, i) => total + (state.x[i] - f) ** 2, 0);
    const ceiling = (s) => -0.5 * pixels * Math.log(2 * Math.PI * s * s);
    const density = (s) => ceiling(s) - squares / (2 * s * s);
    const chosen = Number(find("sigma").value), sigma = Math.exp(chosen), best = Math.sqrt(squares / pixels);
    show(find("clean"), mean);
    show(find("noisy"), mean.map((f, i) => f + sigma * fixed[i]));
    find("sigma-value").textContent = sigma.toPrecision(2);
    find("sigma-text").innerHTML = `log p(x | z) = <b>${number(density(sigma), 0)}</b> nats at σ = ${sigma.toPrecision(2)}, of at most ${number(ceiling(sigma), 0)}. ` +
      `With the model's σ = ${model.sigma.toPrecision(3)} it is ${number(density(model.sigma), 0)}. The best σ for this image is ${best.toPrecision(2)}, with ${number(density(best), 0)} nats.`;

    const w = 340, h = 200, left = 44, bottom = 168, top = Math.max(ceiling(Math.exp(-6)) * 0.75, density(best) * 1.1), low = -0.6 * top;
    const across = (logS) => left + ((logS + 6) / 6) * (w - left - 6), up = (nats) => bottom - ((clamp(nats, low, top) - low) / (top - low)) * (bottom - 8);
    const path = (f) => Array.from({ length: 121 }, (_, k) => -6 + k / 20).filter((s) => f(Math.exp(s)) >= low && f(Math.exp(s)) <= top)
      .map((s) => `${across(s).toFixed(1)},${up(f(Math.exp(s))).toFixed(1)}`).join(" ");
    const unit = 10 ** Math.floor(Math.log10(top)), spacing = top / unit > 4 ? 2 * unit : top / unit > 2 ? unit : unit / 2;
    let content = "";
    for (let t = Math.ceil(low / spacing) * spacing; t <= top; t += spacing) content += line(left, up(t), w, up(t)) + text(left - 5, up(t) + 4, number(t, 0), "end");
    for (const s of [0.003, 0.01, 0.03, 0.1, 0.3, 1]) content += text(across(Math.log(s)), bottom + 15, s);
    content += text((left + w) / 2, h - 3, "σ");
    content += `<polyline points="${path(ceiling)}" fill="none" stroke="var(--soft)" stroke-dasharray="4 4"/>`;
    content += `<polyline points="${path(density)}" fill="none" stroke="var(--blue)" stroke-width="2.5"/>`;
    content += line(across(Math.log(model.sigma)), 8, across(Math.log(model.sigma)), bottom, "var(--soft)") + text(across(Math.log(model.sigma)) + 5, bottom - 6, "the model's σ", "start");
    content += `<circle cx="${across(chosen)}" cy="${up(density(sigma))}" r="6" fill="var(--orange)"/>`;
    plot(find("curve"), w, h, content);
  }
  if (model.observation === "gaussian") {
    const own = () => { find("sigma").value = Math.log(model.sigma); };
    own();
    find("sigma").addEventListener("input", drawSigma);
    find("own-sigma").addEventListener("click", () => { own(); drawSigma(); });
  }

  // --- the whole page ---

  find("precision").textContent = `The page has the model's weights rounded to half precision. That changes no pixel's mean by more than ${
    data.rounding < 0.01 ? "0.01" : number(data.rounding, 2)} / 255 in the reconstructions of these ${count} test images.`;

  function drawAll() {
    drawKey();
    drawBackground();
    update();
    drawPlace();
    drawPath();
  }
  state.v = testImage(0);
  state.test = 0;
  place.noise = testNoise(0);
  if (known.includes(data.labels[0])) place.label = data.labels[0];
  drawAll();
  if (conditional) find("label").querySelector(`input[value="${place.label}"]`).checked = true;
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
