// Reads values off the charts: the step under the pointer or the arrow keys, and what each line has there.
"use strict";
(() => {
  const known = () => JSON.parse(document.getElementById("charts").textContent);
  let charts = known();

  const RIGHT = 16;
  const DRAWINGS = "figure.lines svg";
  // The step that is told of each chart.
  const told = new Map();
  const nearest = (steps, wanted) => {
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < wanted) low = middle; else high = middle;
    }
    return wanted - steps[low] <= steps[high] - wanted ? low : high;
  };
  const stepsOf = (chart) => chart.lines.reduce((a, b) => (b.steps.length > a.steps.length ? b : a)).steps;

  const tell = (drawing, step) => {
    const figure = drawing.closest("figure"), chart = charts[figure.dataset.chart];
    const shown = chart.lines.map((line) => {
      const place = nearest(line.steps, step);
      const where = line.steps[place] === step ? "" : ` (step ${line.steps[place].toLocaleString("en")})`;
      return `${line.name} ${line.values[place]}${where}`;
    });
    figure.querySelector("output").textContent = `step ${step.toLocaleString("en")}: ${shown.join(" · ")}`;
    const left = chart.left[0], right = drawing.viewBox.baseVal.width - RIGHT;
    const place = left + (step - chart.first) / (chart.last - chart.first) * (right - left);
    const cursor = drawing.querySelector(".cursor");
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    told.set(figure.dataset.chart, step);
  };
  const over = (event) => {
    const drawing = event.target.closest?.(DRAWINGS);
    if (!drawing) return;
    const chart = charts[drawing.closest("figure").dataset.chart];
    const box = drawing.getBoundingClientRect(), width = drawing.viewBox.baseVal.width;
    const left = chart.left[0], right = width - RIGHT;
    const x = Math.min(right, Math.max(left, (event.clientX - box.left) * width / box.width));
    const wanted = chart.first + (x - left) / (right - left) * (chart.last - chart.first);
    const steps = stepsOf(chart);
    tell(drawing, steps[nearest(steps, wanted)]);
  };
  const press = (event) => {
    const drawing = event.target.closest?.(DRAWINGS);
    if (!drawing || event.altKey || event.ctrlKey || event.metaKey) return;
    const id = drawing.closest("figure").dataset.chart, steps = stepsOf(charts[id]), last = steps.length - 1;
    const place = told.has(id) ? nearest(steps, told.get(id)) : -1;
    const far = event.shiftKey ? 10 : 1;
    const goals = { ArrowLeft: place < 0 ? last : place - far, ArrowRight: place + far, Home: 0, End: last };
    if (!(event.key in goals)) return;
    event.preventDefault();
    tell(drawing, steps[Math.min(last, Math.max(0, goals[event.key]))]);
  };
  // By the script, since without it there are no keys to press.
  const prepare = () => {
    for (const drawing of document.querySelectorAll(DRAWINGS)) {
      drawing.tabIndex = 0;
      drawing.setAttribute("aria-description", "arrow keys read its values");
    }
  };
  document.addEventListener("pointermove", over);
  document.addEventListener("pointerdown", over);
  document.addEventListener("keydown", press);
  document.addEventListener("qvl-renewed", () => {
    charts = known();
    prepare();
    for (const [id, step] of told) {
      const drawing = [...document.querySelectorAll(DRAWINGS)]
        .find((one) => one.closest("figure").dataset.chart === id && one.clientWidth);
      if (drawing) tell(drawing, step);
    }
  });
  prepare();
})();
