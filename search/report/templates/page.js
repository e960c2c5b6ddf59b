"use strict";
// Draws the plots, whose data stand beside them in the page, in the reader's colours: light, dark, and light on paper.
// Reading comes first: plotly.js waits for the first paint, plots near the reader are drawn first, the rest when idle.
(() => {
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const library = document.getElementById("plotly").textContent;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const idle = window.requestIdleCallback || ((then) => setTimeout(then, 50)); // Safari has none.
  const plots = [...document.querySelectorAll(".canvas")].map((canvas) => ({
    canvas,
    data: canvas.parentElement.querySelector("script"),
    near: false,
    look: "",
  }));
  let printing = false;

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

  const look = () => (printing ? "paper" : dark.matches ? "dark" : "light");
  const undrawn = () => plots.filter((plot) => plot.look !== look());

  function draw(plot) {
    plot.look = look();
    const palette = settings.palettes[plot.look === "dark" ? "dark" : "light"];
    const { data, layout } = resolve(JSON.parse(plot.data.textContent), palette);
    // The place that was kept for it, so that nothing moves.
    const height = parseFloat(getComputedStyle(plot.canvas).minHeight);
    const shared = { autosize: true, height, template: resolve(settings.template, palette) };
    // On a phone a finger on a plot must still scroll the page.
    if (touch.matches) shared.dragmode = false;
    Plotly.react(plot.canvas, data, { ...layout, ...shared }, { displayModeBar: false, responsive: true });
  }

  // One plot at a time, so that the page can be read and scrolled from the start. A later call replaces an earlier one.
  let latest = 0;
  function drawOn() {
    if (!window.Plotly) return;
    const call = ++latest;
    const left = undrawn();
    document.documentElement.dataset.drawn = left.length ? "some" : "all";
    if (!left.length) return;
    const near = left.find((plot) => plot.near);
    (near ? setTimeout : idle)(() => {
      if (call !== latest) return;
      draw(near || left[0]);
      drawOn();
    });
  }

  // At once, which blocks the page.
  function runLibrary() {
    const script = document.createElement("script");
    script.textContent = library;
    document.head.append(script);
  }

  // Of a script with an address the browser compiles beside the page what the first line asks for: all of it.
  // Inline, that would block the page for longer than all else in it.
  function loadLibrary() {
    const script = document.createElement("script");
    script.src = URL.createObjectURL(new Blob(["//# allFunctionsCalledOnLoad\n", library]));
    script.addEventListener("load", drawOn);
    script.addEventListener("error", () => {
      runLibrary();
      drawOn();
    });
    document.head.append(script);
  }

  dark.addEventListener("change", drawOn);
  addEventListener("beforeprint", () => {
    printing = true;
    document.body.classList.add("printing");
    if (!window.Plotly) runLibrary();
    undrawn().forEach(draw);
    drawOn();
  });
  addEventListener("afterprint", () => {
    printing = false;
    document.body.classList.remove("printing");
    drawOn();
  });

  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        plots.find((plot) => plot.canvas === target).near = isIntersecting;
      }
      drawOn();
    },
    { rootMargin: "300px 0px" },
  );
  plots.forEach((plot) => observer.observe(plot.canvas));
  // A frame's callbacks come before its paint. A hidden page has no frames.
  if (document.hidden) loadLibrary();
  else requestAnimationFrame(() => setTimeout(loadLibrary));
})();
