"use strict";
// Draws the plots, whose data stand beside them in the page, in the reader's colours: light, dark, and light on paper.
(() => {
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const plots = [...document.querySelectorAll(".plot")].map((figure) => ({
    canvas: figure.querySelector(".canvas"),
    plot: JSON.parse(figure.querySelector("script").textContent),
  }));

  // "@best/20" is the palette's colour of that name, at 20 percent.
  function colour(name, palette) {
    const [role, percent] = name.slice(1).split("/");
    const hex = palette[role];
    if (!hex || !percent) return hex || name;
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${red},${green},${blue},${percent / 100})`;
  }

  function resolve(value, palette) {
    if (Array.isArray(value)) return value.map((item) => resolve(item, palette));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolve(item, palette)]));
    }
    return typeof value === "string" && value[0] === "@" ? colour(value, palette) : value;
  }

  function draw({ canvas, plot }, palette) {
    const { data, layout } = resolve(plot, palette);
    const shared = { autosize: true, template: resolve(settings.template, palette) };
    // On a phone a finger on a plot must still scroll the page.
    if (touch.matches) shared.dragmode = false;
    // Where it is narrow, a legend takes several lines, and not from the plot.
    const narrow = layout.showlegend && canvas.clientWidth < 500 ? 12 * data.length : 0;
    shared.height = layout.height + narrow;
    Plotly.react(canvas, data, { ...layout, ...shared }, { displayModeBar: false, responsive: true });
  }

  const palette = () => settings.palettes[dark.matches ? "dark" : "light"];

  let next = 0;
  function drawSome() {
    // In slices, so that the page can be read and scrolled from the start.
    const until = performance.now() + 40;
    do {
      if (next < plots.length) draw(plots[next++], palette());
    } while (next < plots.length && performance.now() < until);
    if (next < plots.length) setTimeout(drawSome);
    else document.documentElement.dataset.drawn = "all";
  }

  function drawAll(colours) {
    plots.forEach((each) => draw(each, colours));
    next = plots.length;
  }

  dark.addEventListener("change", () => drawAll(palette()));
  addEventListener("beforeprint", () => {
    document.body.classList.add("printing");
    drawAll(settings.palettes.light);
  });
  addEventListener("afterprint", () => {
    document.body.classList.remove("printing");
    drawAll(palette());
  });
  drawSome();
})();
