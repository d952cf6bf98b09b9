"use strict";
// The explorer as a whole. Controls of an image are in explorer_encoder.js, those of the latent space in
// explorer_latent.js, the test images in explorer_images.js, the model in explorer_model.js, plots in explorer_plots.js.
// The page of a model that cannot run has explorer_measured.js in place of this file and of the first two.

(() => {
  const { find, data } = ExplorerImages;

  function drawAll() {
    ExplorerEncoder.update();
    ExplorerLatent.drawAll();
  }

  find("precision").textContent =
    "The page has the model's weights rounded to half precision. In the reconstructions of these test images that " +
    `changes no pixel's mean by more than ${ExplorerPlots.number(Math.max(data.rounding, 0.01), 2)} / 255.`;
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
})();
