"use strict";
// The page of a model that cannot run in it: the test images, and what was measured of them.

(() => {
  const { find, show, count, testImage, grey, withClass } = ExplorerImages;
  const { measuredRows, drawRows, drawFitted, addBrowsing } = ExplorerImages;
  let index = 0;

  function draw() {
    show(find("image"), grey(testImage(index)));
    find("source").textContent = withClass(`test image ${index + 1} of ${count}`, index);
    drawRows(measuredRows(index));
    drawFitted(index);
  }

  addBrowsing(() => index, (chosen) => {
    index = chosen;
    draw();
  });
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
