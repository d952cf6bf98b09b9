"use strict";
// The test images of the explorer: what was measured of them, and the dialog that picks one. No network is needed here.

const ExplorerImages = (() => {
  const { bytesOf, clamp } = ExplorerModel;
  const { number, orNone, percent, style, prepared } = ExplorerPlots;

  const find = (id) => document.getElementById(id);
  const data = JSON.parse(find("data").textContent);
  const { levels, conditional, measured, labels } = data;
  const count = labels.length;
  const quantity = data.binarised ? "log P(v" : "log p(x";
  const target = quantity + (conditional ? " | y)" : ")");
  const show = (canvas, image, ...place) => ExplorerPlots.show(canvas, image, data, ...place);

  const bytes = bytesOf(data.images), pixels = bytes.length / count;
  const testImage = (index) => Array.from(bytes.subarray(index * pixels, (index + 1) * pixels));
  const grey = (v) => v.map((value) => value / (levels - 1));
  const withClass = (text, index) => (data.labelled ? `${text}, class ${labels[index]}` : text);

  // Where a pointer is on an element, as fractions of its width and height.
  function position(element, event) {
    const box = element.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

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

  // --- what was measured ---

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

  const largestText = (share) => `the largest has ${percent(share)} of the sum`;
  function fittedText(index) {
    const [ess, samples, khat, largest] = ["ess", "samples", "khat", "largest"].map((name) => measured[name][index]);
    const effective = `${orNone(ess, 0)} effective samples of ${samples}`;
    return `<b>${data.proposal}</b>, measured: ${effective}; ${largestText(largest)}; k̂ = ${orNone(khat, 2)}.`;
  }

  function drawWeights(id, bins, caption) {
    ExplorerPlots.weights(find(id).querySelector("svg"), bins, data.bins);
    find(id).querySelector("figcaption").innerHTML = caption;
  }
  // The histogram of an image's measured weights. It is hidden if they are not finite, or if `index` is null.
  function drawFitted(index) {
    const bins = index === null ? null : measured.histogram[index];
    find("fitted").hidden = !bins;
    if (bins) drawWeights("fitted", bins, fittedText(index));
  }
  function drawRows(rows) {
    find("density").innerHTML = rows.map(([name, value]) => `<dt>${name}</dt><dd>${value}</dd>`).join("");
  }

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
    find("picker-text").textContent = `${withClass(`Image ${candidate + 1}`, candidate)}: ${value}.${corners}`;
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

  // The buttons that step through the test images, or pick one. `current` is the number of the image in view, or null.
  function addBrowsing(current, then) {
    const step = (by) => then(((current() ?? (by > 0 ? -1 : count)) + by + count) % count);
    find("previous").addEventListener("click", () => step(-1));
    find("next").addEventListener("click", () => step(1));
    find("choose").addEventListener("click", () => pick("Pick a test image", current() ?? 0, then));
  }

  return {
    find, data, show, count, target, testImage, grey, withClass, position, ARROWS, addChoices, measuredRows,
    largestText, drawWeights, drawFitted, drawRows, pick, addBrowsing,
  };
})();
