"use strict";
// The controls of the explorer, panel by panel. The model is in explorer_model.js, the plots are in explorer_plots.js.

(() => {
  const { load, bytesOf, normals, summary, histogram, slerp, clamp } = ExplorerModel;
  const { number, orNone, percent, subscript, style, prepared, disc } = ExplorerPlots;
  const LIVE_SAMPLES = 128; // importance samples of the encoder, drawn in the page
  const AT_ONCE = 16; // of these between two looks at the controls
  const REST = 200; // milliseconds without a change, after which they are drawn

  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const model = load(data.model);
  const { height, width, measured, classes, labels } = data;
  const { pixels, levels, latent, oneHot } = model;
  const count = labels.length;
  const conditional = model.classes > 0;
  const known = classes.filter((label) => data.shares[label] > 0); // that a conditional model was trained on
  const symbol = model.couplings.length ? "ε" : "z";
  const quantity = data.binarised ? "log P(v" : "log p(x";
  const target = quantity + (conditional ? " | y)" : ")");
  const show = (canvas, image, ...place) => ExplorerPlots.show(canvas, image, data, ...place);

  // --- images ---

  const bytes = bytesOf(data.images);
  // Noise of dequantisation, the same for every image, at the middles of 2¹² parts of [0, 1].
  const random = normals(1);
  const noise = Float64Array.from({ length: pixels }, () => (Math.floor(random.uniform() * 4096) + 0.5) / 4096);
  const dequantised = (v) => Float64Array.from(v, (value, i) => (value + noise[i]) / levels);
  const testImage = (index) => Array.from(bytes.subarray(index * pixels, (index + 1) * pixels));
  const grey = (v) => v.map((value) => value / (levels - 1));

  // Where a pointer is on an element, as fractions of its width and height.
  function position(element, event) {
    const box = element.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  // --- first panel: an image, its encoding, its reconstruction and its density ---

  const state = {
    v: testImage(0), // grey levels of the image
    test: 0, // its number among the test images; null of a drawing
    chosenLabel: null, // null: the own label of a test image, the likeliest of a drawing
    label: known[0] ?? 0,
    x: null,
    q: null,
    mean: null, // f(μ(x))
    weights: null, // log-weights of the encoder's samples
  };
  let pending = 0;

  function setImage(v, test) {
    Object.assign(state, { v, test });
    update();
  }

  function update() {
    clearTimeout(pending);
    state.x = dequantised(state.v);
    const own = state.test === null ? null : labels[state.test];
    // A drawing keeps its label until the pen rests: to find the likeliest one takes many evaluations.
    state.label = state.chosenLabel ?? own ?? state.label;
    encode();
    pending = setTimeout(() => {
      if (conditional && state.chosenLabel === null && own === null) {
        state.label = likeliestLabel(state.x);
        encode();
      }
      weigh([], normals(3));
    }, REST);
  }

  // The label with the largest ELBO plus log p(y), by two samples with common noise.
  function likeliestLabel(x) {
    const totals = known.map((label) => {
      const y = oneHot(label), q = model.encode(x, y), draws = normals(2);
      const elbo = [0, 1].reduce((total) => total + model.logWeight(x, q, draws.vector(latent), y) / 2, 0);
      return elbo + Math.log(data.shares[label]);
    });
    return known[totals.indexOf(Math.max(...totals))];
  }

  function encode() {
    const y = oneHot(state.label);
    state.q = model.encode(state.x, y);
    state.mean = model.decode(state.q.mean, y);
    state.weights = null;
    show(drawing, grey(state.v));
    show(find("reconstruction"), state.mean);
    ExplorerPlots.encoding(find("encoding"), state.q);
    find("source").textContent =
      state.test === null ? "your drawing" : `test image ${state.test + 1} of ${count}, class ${labels[state.test]}`;
    if (conditional) {
      const automatic = state.test === null ? `likeliest: ${state.label}` : `its own: ${state.label}`;
      find("given").querySelector("span").textContent = state.chosenLabel === null ? automatic : "automatic";
    }
    drawDensity();
    drawSigma();
    drawPen();
  }

  // Importance samples of the encoder, a few at a time.
  function weigh(logW, draws) {
    const y = oneHot(state.label);
    for (let k = 0; k < AT_ONCE; k++) logW.push(model.logWeight(state.x, state.q, draws.vector(latent), y));
    if (logW.length < LIVE_SAMPLES) {
      pending = setTimeout(() => weigh(logW, draws));
      return;
    }
    state.weights = logW;
    drawDensity();
  }

  function drawDensity() {
    // What was measured is of the image with its own label.
    const own = state.test !== null && (!conditional || state.label === labels[state.test]);
    const live = state.weights && summary(state.weights);
    const rows = own ? measuredRows(state.test) : [["ELBO", bound(live)]];
    find("density").innerHTML = rows.map(([name, value]) => `<dt>${name}</dt><dd>${value}</dd>`).join("");
    const bins = own ? measured.histogram[state.test] : null;
    const finite = live !== null && Number.isFinite(live.logMean);
    find("fitted").hidden = !bins;
    find("live").hidden = !finite;
    if (bins) drawWeights("fitted", bins, fittedText(state.test));
    if (finite) drawWeights("live", histogram(state.weights, data.bins), liveText(live));
  }

  function measuredRows(index) {
    const [value, error, elbo, sum] = ["value", "error", "elbo", "sum"].map((name) => measured[name][index]);
    const verdict = measured.trusted[index]
      ? '<span class="good">✓ trusted</span>'
      : '<span class="bad">✕ not trusted</span>';
    const short = value === null || elbo === null ? "" : `, ${number(value - elbo)} nats below`;
    const rows = [
      [target, `<b>${orNone(value)}</b> ± ${orNone(error, 2)} nats, measured &ensp;${verdict}`],
      ["ELBO", `${orNone(elbo)} nats, a lower bound${short}`],
    ];
    return conditional ? [...rows, [`${quantity})`, `${orNone(sum)} nats, summed over all labels`]] : rows;
  }

  function bound(live) {
    if (!live) return "…";
    if (!Number.isFinite(live.meanLog)) return "not finite";
    const beaten = measured.elbo.filter((elbo) => elbo !== null && elbo < live.meanLog).length;
    const above = `above that of ${percent(beaten / count)} of the test images`;
    return `<b>${number(live.meanLog)}</b> nats, a lower bound on ${target}; ${above}`;
  }

  const largestText = (share) => `the largest has ${percent(share)} of the sum`;
  function fittedText(index) {
    const [ess, samples, khat, largest] = ["ess", "samples", "khat", "largest"].map((name) => measured[name][index]);
    const effective = `${orNone(ess, 0)} effective samples of ${samples}`;
    return `<b>${data.proposal}</b>, measured: ${effective}; ${largestText(largest)}; k̂ = ${orNone(khat, 2)}.`;
  }
  function liveText(live) {
    const effective = `${number(live.ess)} effective samples of ${LIVE_SAMPLES}`;
    return `<b>The encoder as proposal</b>, drawn now: ${effective}; ${largestText(live.largest)}.`;
  }

  function drawWeights(id, bins, caption) {
    ExplorerPlots.weights(find(id).querySelector("svg"), bins, data.bins);
    find(id).querySelector("figcaption").innerHTML = caption;
  }

  // --- drawing ---

  const drawing = find("drawing");
  const pen = { x: width / 2, y: height / 2, pressed: false, down: false }; // pressed by a pointer, down by the keyboard
  const radius = Math.max(0.55, height / 24); // a stroke of MNIST is about three of 28 pixels wide

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

  drawing.addEventListener("pointerdown", (event) => {
    const [x, y] = position(drawing, event);
    Object.assign(pen, { pressed: true, x: x * width, y: y * height });
    if (event.isTrusted) drawing.setPointerCapture(event.pointerId);
    stroke(pen.x, pen.y);
  });
  drawing.addEventListener("pointermove", (event) => {
    const [x, y] = position(drawing, event);
    if (pen.pressed) stroke(x * width, y * height);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    drawing.addEventListener(name, () => (pen.pressed = false));
  }

  // The pen of the keyboard is a pixel in another colour.
  function drawPen() {
    if (document.activeElement !== drawing || !drawing.matches(":focus-visible")) return;
    const context = drawing.getContext("2d");
    context.fillStyle = style(pen.down ? "--orange" : "--blue");
    context.fillRect(Math.floor(pen.x), Math.floor(pen.y), 1, 1);
  }
  drawing.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow && event.key !== " ") return;
    event.preventDefault();
    if (event.key === " ") pen.down = !pen.down;
    const [right, down] = arrow ?? [0, 0];
    const x = clamp(pen.x + right, 0.5, width - 0.5), y = clamp(pen.y + down, 0.5, height - 0.5);
    if (pen.down) stroke(x, y);
    else Object.assign(pen, { x, y });
    show(drawing, grey(state.v));
    drawPen();
  });
  drawing.addEventListener("focus", drawPen);
  drawing.addEventListener("blur", () => {
    pen.down = false;
    show(drawing, grey(state.v));
  });

  // Move the centre of mass to the middle, as in MNIST.
  function centre() {
    const old = state.v, total = old.reduce((a, b) => a + b, 0);
    if (total === 0) return;
    const mean = (f) => old.reduce((sum, value, i) => sum + value * f(i), 0) / total;
    const right = Math.round(mean((i) => i % width) - (width - 1) / 2);
    const down = Math.round(mean((i) => Math.floor(i / width)) - (height - 1) / 2);
    if (!right && !down) return;
    const moved = old.map((_, i) => {
      const column = (i % width) + right, row = Math.floor(i / width) + down;
      return column >= 0 && column < width && row >= 0 && row < height ? old[row * width + column] : 0;
    });
    setImage(moved, null);
  }

  function step(by) {
    const from = state.test ?? (by > 0 ? -1 : count);
    const index = (from + by + count) % count;
    setImage(testImage(index), index);
  }

  find("clear").addEventListener("click", () => setImage(new Array(pixels).fill(0), null));
  find("centre").addEventListener("click", centre);
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("choose").addEventListener("click", () =>
    pick("Pick a test image", state.test ?? 0, (index) => setImage(testImage(index), index)),
  );

  // --- the picker of test images ---

  const picker = find("picker"), sheet = find("images");
  const CELL = 32, GAP = 4;
  let columns = 20, candidate = 0, take = () => {};

  function drawSheet() {
    columns = clamp(Math.floor((Math.min(window.innerWidth * 0.96, 704) - 44) / CELL), 4, 20);
    const rows = Math.ceil(count / columns);
    sheet.style.width = `${columns * CELL}px`;
    const context = prepared(sheet, columns * CELL, rows * CELL), small = document.createElement("canvas");
    for (let i = 0; i < count; i++) {
      const left = (i % columns) * CELL, top = Math.floor(i / columns) * CELL;
      show(small, grey(testImage(i)));
      context.drawImage(small, left + GAP / 2, top + GAP / 2, CELL - GAP, CELL - GAP);
      if (!measured.trusted[i]) {
        context.fillStyle = style("--orange");
        context.fillRect(left + CELL - 10, top + 2, 8, 8);
      }
    }
    context.strokeStyle = style("--blue");
    context.lineWidth = 3;
    const [left, top] = [(candidate % columns) * CELL, Math.floor(candidate / columns) * CELL];
    context.strokeRect(left + 1.5, top + 1.5, CELL - 3, CELL - 3);
    describeCandidate();
  }

  function describeCandidate() {
    const verdict = measured.trusted[candidate] ? "trusted" : "not trusted";
    const value = `${target} = ${orNone(measured.value[candidate])} nats, ${verdict}`;
    const corners = measured.trusted.every(Boolean) ? "" : " Orange corner: not trusted.";
    find("picker-text").textContent = `Image ${candidate + 1}, class ${labels[candidate]}: ${value}.${corners}`;
    const aria = { valuemin: 1, valuemax: count, valuenow: candidate + 1, valuetext: find("picker-text").textContent };
    for (const [name, content] of Object.entries(aria)) sheet.setAttribute(`aria-${name}`, content);
  }

  function pick(title, from, then) {
    candidate = from;
    take = then;
    find("picker-title").textContent = title;
    picker.showModal();
    drawSheet();
    sheet.focus();
  }
  function taken() {
    picker.close();
    take(candidate);
  }
  function under(event) {
    const [x, y] = position(sheet, event);
    const row = Math.floor(y * Math.ceil(count / columns));
    return clamp(row * columns + clamp(Math.floor(x * columns), 0, columns - 1), 0, count - 1);
  }
  function consider(index) {
    if (index === candidate) return;
    candidate = index;
    drawSheet();
  }
  sheet.addEventListener("pointermove", (event) => consider(under(event)));
  sheet.addEventListener("click", (event) => {
    candidate = under(event); // before the picker closes, after which it has no size
    taken();
  });
  sheet.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow && event.key !== "Enter") return;
    event.preventDefault();
    if (arrow) consider(clamp(candidate + arrow[0] + columns * arrow[1], 0, count - 1));
    else taken();
  });
  find("close").addEventListener("click", () => picker.close());

  // --- second panel: the latent space ---

  const map = find("map"), { points, basis, order } = data.map;
  const place = { noise: testNoise(0), label: known.includes(labels[0]) ? labels[0] : known[0] ?? 0 };
  const draws = normals(4);
  const SIDE = 400; // of the map, in its own coordinates
  const distances = points.map((point) => Math.max(...point.map(Math.abs))).sort((a, b) => a - b);
  const reach = clamp(1.1 * distances[Math.floor(0.99 * (points.length - 1))], 2.5, 8); // half the width of the map
  let background = null;

  // ε = g⁻¹(μ(x, y)) of a test image; z itself if the prior is N(0, I).
  function testNoise(index) {
    const y = oneHot(labels[index]);
    return model.toNoise(model.encode(dequantised(testImage(index)), y).mean, y).noise;
  }
  const onMap = ([a, b]) => [((a + reach) / (2 * reach)) * SIDE, ((reach - b) / (2 * reach)) * SIDE];
  const inPlane = (noise) =>
    basis.map((direction) => direction.reduce((total, value, d) => total + value * noise[d], 0));
  function colour(label) {
    const chosen = data.colours[classes.indexOf(label) % data.colours.length];
    return chosen === "#000000" ? style("--ink") : chosen;
  }

  function drawBackground() {
    background = document.createElement("canvas");
    const context = prepared(background, SIDE, SIDE);
    context.strokeStyle = style("--line");
    for (const deviations of [1, 2, 3]) {
      context.beginPath();
      context.arc(...onMap([0, 0]), (deviations / (2 * reach)) * SIDE, 0, 2 * Math.PI);
      context.stroke();
    }
    context.globalAlpha = 0.45;
    points.slice(count).forEach((point, i) => disc(context, onMap(point), 1.8, colour(data.map.labels[count + i])));
    context.globalAlpha = 1;
    points.slice(0, count).forEach((point, i) => {
      disc(context, onMap(point), 4.2, style("--ground"));
      disc(context, onMap(point), 3.2, colour(labels[i]));
    });
    if (data.map.separated) classes.forEach((label) => nameClass(context, label));
  }

  // The name of a class at the mean of its points.
  function nameClass(context, label) {
    const own = points.filter((_, i) => data.map.labels[i] === label);
    if (!own.length) return;
    const mean = [0, 1].map((k) => own.reduce((total, point) => total + point[k], 0) / own.length);
    Object.assign(context, { font: "bold 17px system-ui, sans-serif", textAlign: "center", textBaseline: "middle" });
    Object.assign(context, { lineWidth: 5, lineJoin: "round", strokeStyle: style("--ground"), fillStyle: style("--ink") });
    context.strokeText(label, ...onMap(mean));
    context.fillText(label, ...onMap(mean));
  }

  function drawPlace() {
    const context = prepared(map, SIDE, SIDE);
    context.drawImage(background, 0, 0, SIDE, SIDE);
    const [x, y] = onMap(inPlane(place.noise));
    for (const [name, lineWidth] of [["--ground", 5], ["--ink", 2]]) {
      Object.assign(context, { strokeStyle: style(name), lineWidth });
      context.beginPath();
      context.arc(x, y, 7, 0, 2 * Math.PI);
      for (const [right, down] of Object.values(ARROWS)) {
        context.moveTo(x + 3 * right, y + 3 * down);
        context.lineTo(x + 12 * right, y + 12 * down);
      }
      context.stroke();
    }
    show(find("decoded"), model.generate(place.noise, oneHot(place.label)));
    for (const d of order) {
      const input = find(`coordinate-${d}`);
      input.value = place.noise[d];
      input.nextElementSibling.textContent = number(place.noise[d]);
    }
  }

  // Move within the plane of the map; what is outside the plane stays.
  function moveTo(point) {
    const now = inPlane(place.noise);
    const shift = (d) => basis.reduce((total, direction, k) => total + direction[d] * (point[k] - now[k]), 0);
    place.noise = place.noise.map((value, d) => value + shift(d));
    drawPlace();
  }
  function setNoise(values, label) {
    place.noise = values;
    if (known.includes(label)) {
      place.label = label;
      find("label").querySelector(`input[value="${label}"]`).checked = true;
    }
    drawPlace();
  }
  // To the nearest of the test images on the page.
  function jump(point) {
    const away = points.slice(0, count).map(([a, b]) => Math.hypot(a - point[0], b - point[1]));
    const nearest = away.indexOf(Math.min(...away));
    setNoise(testNoise(nearest), labels[nearest]);
  }
  function pointed(event) {
    const [x, y] = position(map, event);
    return [(2 * x - 1) * reach, (1 - 2 * y) * reach];
  }

  // After a jump the mouse has to leave its place before it moves the point again.
  let hold = null;
  map.addEventListener("pointermove", (event) => {
    const point = pointed(event);
    if (hold && Math.hypot(hold[0] - point[0], hold[1] - point[1]) < 0.05 * reach) return;
    hold = null;
    moveTo(point);
  });
  map.addEventListener("click", (event) => {
    hold = pointed(event);
    jump(hold);
  });
  map.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key], size = event.shiftKey ? 0.5 : 0.1, now = inPlane(place.noise);
    if (!arrow && event.key !== "Enter") return;
    event.preventDefault();
    if (arrow) moveTo([now[0] + size * arrow[0], now[1] - size * arrow[1]]);
    else jump(now);
  });
  find("sample").addEventListener("click", () => setNoise(draws.vector(latent)));
  find("origin").addEventListener("click", () => setNoise(new Float64Array(latent)));
  find("from-drawing").addEventListener("click", () =>
    setNoise(model.toNoise(state.q.mean, oneHot(state.label)).noise, state.label),
  );

  function addSliders() {
    for (const d of order) {
      const label = document.createElement("label");
      label.className = "slider";
      const range = `<input type="range" id="coordinate-${d}" min="-4" max="4" step="0.05">`;
      label.innerHTML = `<span>${symbol}${subscript(d + 1)}</span>${range}<output></output>`;
      label.querySelector("input").addEventListener("input", (event) => {
        place.noise[d] = Number(event.target.value);
        drawPlace();
      });
      find("sliders").append(label);
    }
  }

  function describePlane() {
    const names = order.slice(0, 2).sort((a, b) => a - b).map((d) => symbol + subscript(d + 1));
    if (latent === 1) return `Encodings of test images: ${symbol} from left to right, their class as the height.`;
    if (data.map.separated) return "Encodings of test images, in the plane that separates the classes best.";
    const mixed = conditional ? " The classes lie over each other, because the label says the class already." : "";
    return `Encodings of test images: coordinates ${names.join(" and ")}.${mixed}`;
  }

  function drawKey() {
    const entries = classes.map((label) => {
      const entry = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = colour(label);
      entry.append(dot, String(label));
      return entry;
    });
    find("key").replaceChildren(...entries);
  }

  // --- labels, in the first and the second panel ---

  // Radio buttons; each option is a value and its text.
  function addChoices(id, options, chosen, then) {
    for (const [value, content] of options) {
      const [label, input, span] = ["label", "input", "span"].map((name) => document.createElement(name));
      Object.assign(input, { type: "radio", name: id, value: String(value), checked: value === chosen });
      span.textContent = content;
      input.addEventListener("change", () => then(value));
      label.append(input, span);
      find(id).append(label);
    }
  }
  function addLabels() {
    const options = known.map((label) => [label, label]);
    addChoices("given", [[null, ""], ...options], null, (label) => {
      state.chosenLabel = label;
      update();
    });
    addChoices("label", options, place.label, (label) => {
      place.label = label;
      drawPlace();
    });
  }

  // --- third panel: a path between two images ---

  const FRAMES = 9, SECONDS = 2.5;
  const other = labels.findIndex((label) => label !== labels[0]);
  const ends = { start: 0, end: other > 0 ? other : count - 1 };
  let endNoise = [];
  let playing = null;

  function onPath(t) {
    const [a, b] = [ends.start, ends.end].map((index) => oneHot(labels[index]));
    return model.generate(slerp(...endNoise, t), a.map((value, k) => (1 - t) * value + t * b[k]));
  }
  function drawPath() {
    endNoise = [ends.start, ends.end].map(testNoise);
    for (const name of ["start", "end"]) show(find(name).querySelector("canvas"), grey(testImage(ends[name])));
    for (let k = 0; k < FRAMES; k++) show(find("film"), onPath(k / (FRAMES - 1)), k, FRAMES);
    drawFraction();
  }
  function drawFraction() {
    const t = Number(find("fraction").value);
    show(find("between"), onPath(t));
    const [from, to] = [labels[ends.start], labels[ends.end]];
    find("between-text").textContent = `${percent(t)} of the way from class ${from} to class ${to}`;
  }
  function stop() {
    clearTimeout(playing);
    playing = null;
    find("play").textContent = "Play";
  }
  function play(began) {
    const t = clamp((performance.now() - began) / (1000 * SECONDS), 0, 1);
    find("fraction").value = t;
    drawFraction();
    if (t < 1) playing = setTimeout(() => play(began), 30);
    else stop();
  }
  find("play").addEventListener("click", () => {
    if (playing !== null) {
      stop();
      return;
    }
    find("play").textContent = "Stop";
    play(performance.now());
  });
  find("fraction").addEventListener("input", () => {
    stop();
    drawFraction();
  });
  for (const [name, title] of [["start", "Pick the first image"], ["end", "Pick the last image"]]) {
    find(name).addEventListener("click", () =>
      pick(title, ends[name], (index) => {
        stop();
        ends[name] = index;
        drawPath();
      }),
    );
  }

  // --- fourth panel: σ of Gaussian pixels, at z = μ(x) of the image in the first panel ---

  const drawn = normals(5).vector(pixels);

  function drawSigma() {
    if (model.observation !== "gaussian") return;
    const sigma = Math.exp(Number(find("sigma").value));
    const squares = state.mean.reduce((total, f, i) => total + (state.x[i] - f) ** 2, 0);
    const best = Math.sqrt(squares / pixels);
    const ceiling = (s) => -0.5 * pixels * Math.log(2 * Math.PI * s * s);
    const density = (s) => ceiling(s) - squares / (2 * s * s);
    show(find("clean"), state.mean);
    show(find("noisy"), state.mean.map((f, i) => f + sigma * drawn[i]));
    find("sigma-value").textContent = sigma.toPrecision(2);
    find("sigma-text").innerHTML =
      `log p(x | z) = <b>${number(density(sigma), 0)}</b> nats at σ = ${sigma.toPrecision(2)}, ` +
      `of at most ${number(ceiling(sigma), 0)}. The best σ for this image is ${best.toPrecision(2)}, ` +
      `with ${number(density(best), 0)} nats.`;
    ExplorerPlots.overSigma(find("curve"), { density, ceiling, best, own: model.sigma, chosen: sigma });
  }
  function setOwnSigma() {
    find("sigma").value = Math.log(model.sigma);
  }

  // --- the whole page ---

  function drawAll() {
    drawKey();
    drawBackground();
    update();
    drawPlace();
    drawPath();
  }

  addSliders();
  if (conditional) addLabels();
  find("plane").textContent = describePlane();
  if (model.observation === "gaussian") {
    setOwnSigma();
    find("sigma").addEventListener("input", drawSigma);
    find("own-sigma").addEventListener("click", () => {
      setOwnSigma();
      drawSigma();
    });
  }
  find("precision").textContent =
    "The page has the model's weights rounded to half precision. In the reconstructions of these test images that " +
    `changes no pixel's mean by more than ${number(Math.max(data.rounding, 0.01), 2)} / 255.`;
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
