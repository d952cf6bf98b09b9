"use strict";
// The explorer's panels of the latent space: the map with its sliders, and a path between two images.

const ExplorerLatent = (() => {
  const { normals, slerp, clamp } = ExplorerModel;
  const { number, percent, subscript, style, prepared, disc } = ExplorerPlots;
  const { find, data, show, count, testImage, grey, position, ARROWS, addChoices, pick } = ExplorerImages;
  const { state, model, known, dequantised } = ExplorerEncoder;
  const { conditional, labelled, classes, labels } = data;
  const { latent, oneHot } = model;
  const symbol = model.couplings.length ? "ε" : "z";

  // --- the map and the sliders ---

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

  function addLabels() {
    const options = known.map((label) => [label, label]);
    addChoices("label", options, place.label, (label) => {
      place.label = label;
      drawPlace();
    });
  }

  function describePlane() {
    const names = order.slice(0, 2).sort((a, b) => a - b).map((d) => symbol + subscript(d + 1));
    const height = labelled ? ", their class as the height" : "";
    if (latent === 1) return `Encodings of test images: ${symbol} from left to right${height}.`;
    if (data.map.separated) return "Encodings of test images, in the plane that separates the classes best.";
    const mixed = conditional ? " The classes lie over each other, because the label says the class already." : "";
    return `Encodings of test images: coordinates ${names.join(" and ")}.${mixed}`;
  }

  function drawKey() {
    const entries = (labelled ? classes : []).map((label) => {
      const entry = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = colour(label);
      entry.append(dot, String(label));
      return entry;
    });
    find("key").replaceChildren(...entries);
  }

  addSliders();
  if (conditional) addLabels();
  find("plane").textContent = describePlane();

  // --- a path between two images ---

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
    const [from, to] = [ends.start, ends.end].map((i) => (labelled ? `class ${labels[i]}` : `image ${i + 1}`));
    find("between-text").textContent = `${percent(t)} of the way from ${from} to ${to}`;
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

  function drawAll() {
    drawKey();
    drawBackground();
    drawPlace();
    drawPath();
  }

  return { drawAll };
})();
