"use strict";
// The explorer's panels of one image: its encoding, its reconstruction, its density, and what σ does to it; drawing.

const ExplorerEncoder = (() => {
  const { load, normals, summary, histogram, clamp } = ExplorerModel;
  const { number, percent, style } = ExplorerPlots;
  const { find, data, show, count, target, testImage, grey, position, ARROWS, addChoices } = ExplorerImages;
  const { withClass, measuredRows, largestText, drawWeights, drawFitted, drawRows, addBrowsing } = ExplorerImages;
  const { height, width, conditional, measured, classes, labels } = data;
  const LIVE_SAMPLES = 128; // importance samples of the encoder, drawn in the page
  const AT_ONCE = 16; // of these between two looks at the controls
  const REST = 200; // milliseconds without a change, after which they are drawn

  const model = load(data.model);
  const { pixels, levels, latent, oneHot } = model;
  const known = classes.filter((label) => data.shares[label] > 0); // that a conditional model was trained on

  // Noise of dequantisation, the same for every image, at the middles of 2¹² parts of [0, 1].
  const random = normals(1);
  const noise = Float64Array.from({ length: pixels }, () => (Math.floor(random.uniform() * 4096) + 0.5) / 4096);
  const dequantised = (v) => Float64Array.from(v, (value, i) => (value + noise[i]) / levels);

  // --- an image, its encoding, its reconstruction and its density ---

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
      state.test === null ? "your drawing" : withClass(`test image ${state.test + 1} of ${count}`, state.test);
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
    drawRows(own ? measuredRows(state.test) : [["ELBO", bound(live)]]);
    drawFitted(own ? state.test : null);
    const finite = live !== null && Number.isFinite(live.logMean);
    find("live").hidden = !finite;
    if (finite) drawWeights("live", histogram(state.weights, data.bins), liveText(live));
  }

  function bound(live) {
    if (!live) return "…";
    if (!Number.isFinite(live.meanLog)) return "not finite";
    const beaten = measured.elbo.filter((elbo) => elbo !== null && elbo < live.meanLog).length;
    const above = `above that of ${percent(beaten / count)} of the test images`;
    return `<b>${number(live.meanLog)}</b> nats, a lower bound on ${target}; ${above}`;
  }

  function liveText(live) {
    const effective = `${number(live.ess)} effective samples of ${LIVE_SAMPLES}`;
    return `<b>The encoder as proposal</b>, drawn now: ${effective}; ${largestText(live.largest)}.`;
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

  if (conditional) {
    const options = [[null, ""], ...known.map((label) => [label, label])];
    addChoices("given", options, null, (label) => {
      state.chosenLabel = label;
      update();
    });
  }
  find("clear").addEventListener("click", () => setImage(new Array(pixels).fill(0), null));
  find("centre").addEventListener("click", centre);
  addBrowsing(() => state.test, (index) => setImage(testImage(index), index));

  // --- σ of Gaussian pixels, at z = μ(x) of the image ---

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
  if (model.observation === "gaussian") {
    setOwnSigma();
    find("sigma").addEventListener("input", drawSigma);
    find("own-sigma").addEventListener("click", () => {
      setOwnSigma();
      drawSigma();
    });
  }

  return { state, model, known, dequantised, update };
})();
