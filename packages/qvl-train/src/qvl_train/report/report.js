// Reads values off the charts: the step under the pointer, and what each line has there. All texts are the page's own.
"use strict";
(() => {
  const known = () => JSON.parse(document.getElementById("charts").textContent);
  let charts = known();
  document.addEventListener("qvl-renewed", () => { charts = known(); });

  const RIGHT = 16;
  const nearest = (steps, wanted) => {
    let low = 0, high = steps.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (steps[middle] < wanted) low = middle; else high = middle;
    }
    return wanted - steps[low] <= steps[high] - wanted ? low : high;
  };

  const read = (figure, drawing, at) => {
    const chart = charts[figure.dataset.chart];
    const box = drawing.getBoundingClientRect(), width = drawing.viewBox.baseVal.width;
    const left = chart.left[0], right = width - RIGHT;
    const x = Math.min(right, Math.max(left, (at - box.left) * width / box.width));
    const wanted = chart.first + (x - left) / (right - left) * (chart.last - chart.first);
    const longest = chart.lines.reduce((a, b) => (b.steps.length > a.steps.length ? b : a));
    const step = longest.steps[nearest(longest.steps, wanted)];
    const shown = chart.lines.map((line) => {
      const place = nearest(line.steps, step);
      const where = line.steps[place] === step ? "" : ` (step ${line.steps[place].toLocaleString("en")})`;
      return `${line.name} ${line.values[place]}${where}`;
    });
    figure.querySelector("output").textContent = `step ${step.toLocaleString("en")}: ${shown.join(" · ")}`;
    const cursor = drawing.querySelector(".cursor");
    const place = left + (step - chart.first) / (chart.last - chart.first) * (right - left);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
  };
  const over = (event) => {
    const drawing = event.target.closest?.("figure.lines svg");
    if (drawing) read(drawing.closest("figure"), drawing, event.clientX);
  };
  document.addEventListener("pointermove", over);
  document.addEventListener("pointerdown", over);
})();
