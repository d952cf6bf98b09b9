// Uses every control of the explorer, as a reader would, and writes what changed as JSON into an element `results`.
(async () => {
  document.currentScript.remove();
  const find = (id) => document.getElementById(id);
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const results = {};
  // What a reader sees: pixels of canvases, content of plots and texts, values of sliders.
  const seen = {
    drawing: () => find("drawing").toDataURL(),
    reconstruction: () => find("reconstruction").toDataURL(),
    encoding: () => find("encoding").innerHTML,
    source: () => find("source").textContent,
    density: () => find("density").textContent,
    fitted: () => (find("fitted").hidden ? "" : find("fitted").innerHTML),
    live: () => (find("live").hidden ? "" : find("live").innerHTML),
    map: () => find("map").toDataURL(),
    decoded: () => find("decoded").toDataURL(),
    sliders: () => [...document.querySelectorAll("#sliders input")].map((input) => input.value).join(),
    between: () => find("between").toDataURL(),
    film: () => find("film").toDataURL(),
    ends: () => find("start").querySelector("canvas").toDataURL() + find("end").querySelector("canvas").toDataURL(),
    fraction: () => find("fraction").value,
    clean: () => find("clean")?.toDataURL(),
    noisy: () => find("noisy")?.toDataURL(),
    curve: () => find("curve")?.innerHTML,
    sigma: () => find("sigma-text")?.textContent,
  };
  const look = () => Object.fromEntries(Object.entries(seen).map(([name, f]) => [name, f()]));
  const settle = () => wait(3000); // longer than the encoder's samples take

  // Names of what an action changes.
  async function changed(name, action) {
    const before = look();
    await action();
    await settle();
    const after = look();
    results[name] = Object.keys(seen).filter((key) => before[key] !== after[key]);
  }
  const click = (element) => element.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  function pointer(element, kind, x, y) {
    const box = element.getBoundingClientRect();
    const place = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    const Kind = kind === "click" ? MouseEvent : PointerEvent;
    element.dispatchEvent(new Kind(kind, { bubbles: true, pointerId: 1, ...place }));
  }
  const key = (element, name, more = {}) => element.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true, ...more }));
  function slide(input, value) {
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  try {
    await settle();
    results.first = look().source;
    await changed("next", () => click(find("next")));
    await changed("previous", () => click(find("previous")));
    click(find("next"));
    click(find("next"));
    await settle();
    results.third = find("density").textContent;
    click(find("next"));
    await settle();
    results.fourth = find("density").textContent;

    await changed("pick by keyboard", () => {
      click(find("choose"));
      results["picker text"] = find("picker-text").textContent;
      results["picker opens"] = find("picker").open && document.activeElement === find("images");
      key(find("images"), "ArrowRight");
      key(find("images"), "Enter");
    });
    results["picked by keyboard"] = [find("source").textContent, find("picker").open];
    await changed("pick by mouse", () => {
      click(find("choose"));
      pointer(find("images"), "pointermove", 0.01, 0.01);
      pointer(find("images"), "click", 0.01, 0.01);
    });
    results["picked by mouse"] = [find("source").textContent, find("picker").open];
    click(find("choose"));
    click(find("close"));
    results["picker closes"] = !find("picker").open;

    await changed("clear", () => click(find("clear")));
    results.blank = [...find("drawing").getContext("2d").getImageData(0, 0, 1, 1).data].slice(0, 3);
    await changed("draw", () => {
      pointer(find("drawing"), "pointerdown", 0.2, 0.2);
      pointer(find("drawing"), "pointermove", 0.2, 0.6);
      pointer(find("drawing"), "pointerup", 0.2, 0.6);
      pointer(find("drawing"), "pointermove", 0.9, 0.9);
    });
    results.drawn = [find("source").textContent, find("density").textContent];
    await changed("centre", () => click(find("centre")));
    await changed("draw by keyboard", () => {
      key(find("drawing"), " ");
      for (let k = 0; k < 3; k++) key(find("drawing"), "ArrowDown");
      key(find("drawing"), " ");
    });

    await changed("map", () => pointer(find("map"), "pointermove", 0.3, 0.3));
    await changed("map by keyboard", () => key(find("map"), "ArrowRight", { shiftKey: true }));
    await changed("jump", () => pointer(find("map"), "click", 0.6, 0.7));
    click(find("sample"));
    await changed("jump by keyboard", () => key(find("map"), "Enter"));
    await changed("slider", () => slide(document.querySelector("#sliders input"), 1.5));
    await changed("last slider", () => slide([...document.querySelectorAll("#sliders input")].at(-1), -2));
    await changed("sample", () => click(find("sample")));
    const once = look().decoded;
    await changed("another sample", () => click(find("sample")));
    results["samples differ"] = once !== look().decoded;
    await changed("origin", () => click(find("origin")));
    await changed("from drawing", () => click(find("from-drawing")));
    results["the drawing is decoded"] = look().decoded === look().reconstruction;
    for (const id of ["given", "label"]) {
      const inputs = find(id)?.querySelectorAll("input") ?? [];
      if (inputs.length) await changed(id, () => click([...inputs].find((input) => !input.checked && input.value !== "null")));
    }

    results.path = find("between-text").textContent;
    await changed("fraction", () => slide(find("fraction"), 0.5));
    await changed("end", () => {
      click(find("end"));
      key(find("images"), "ArrowRight");
      key(find("images"), "Enter");
    });
    slide(find("fraction"), 0);
    click(find("play"));
    await wait(700);
    results.playing = [find("play").textContent, Number(find("fraction").value)];
    await wait(4000);
    results.played = [find("play").textContent, Number(find("fraction").value)];
    click(find("play"));
    await wait(300);
    click(find("play"));
    const stopped = find("fraction").value;
    await wait(500);
    results.stopped = [find("play").textContent, stopped === find("fraction").value];

    if (find("sigma")) {
      await changed("sigma", () => slide(find("sigma"), -1));
      await changed("own sigma", () => click(find("own-sigma")));
    }
    // Of everything that takes the keyboard: the text that a screen reader says.
    const controls = [...document.querySelectorAll("button, input, select, [tabindex]")];
    const name = (element) => element.getAttribute("aria-label") ?? (element.closest("label") ?? element).textContent;
    results.nameless = controls.filter((element) => name(element).trim() === "").map((element) => element.outerHTML);
    results.controls = controls.length;
    results.text = find("page").innerText;
    results.overflow = document.documentElement.scrollWidth - window.innerWidth;
    results.ground = getComputedStyle(document.body).backgroundColor;
  } catch (error) {
    results.error = String(error.stack ?? error);
  }
  find("data").remove();
  const place = document.createElement("pre");
  place.id = "results";
  place.textContent = JSON.stringify(results);
  document.body.append(place);
})();
