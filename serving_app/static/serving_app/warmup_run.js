// Keeps the page of a warm-up run up to date while the run goes on.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const box = document.getElementById("warmup-run");
  if (!box) {
    return;
  }
  const at = (name) => box.querySelector(`[data-shows="${name}"]`);

  function show(figures) {
    for (const name of ["state", "summary", "took", "alive", "benefit", "message"]) {
      at(name).textContent = figures[name];
    }
    const bar = at("bar");
    bar.setAttribute("aria-valuenow", figures.percent);
    bar.replaceChildren(
      ...figures.parts.map((part) => {
        const piece = document.createElement("span");
        piece.style.cssText = `display:block;height:100%;width:${part.percent}%`;
        piece.style.background = part.colour;
        piece.title = `${part.name}: ${part.count}`;
        return piece;
      })
    );
    at("parts").replaceChildren(
      ...figures.parts.map((part) => {
        const row = document.createElement("li");
        const dot = document.createElement("span");
        dot.style.cssText = "display:inline-block;width:.75rem;height:.75rem;margin-right:.5rem";
        dot.style.background = part.colour;
        row.append(dot, `${part.name}: ${part.count}`);
        return row;
      })
    );
    const stop = box.querySelector("form");
    if (stop) {
      stop.hidden = !figures.active;
    }
  }

  async function follow() {
    try {
      const answer = await fetch(box.dataset.progress, { credentials: "same-origin" });
      if (answer.ok) {
        const figures = await answer.json();
        show(figures);
        if (!figures.active) {
          return;
        }
      }
    } catch (error) {
      // The server may be restarting; the next look will tell.
    }
    setTimeout(follow, 1000);
  }

  const figures = JSON.parse(document.getElementById("warmup-figures").textContent);
  show(figures);
  if (figures.active) {
    setTimeout(follow, 500);
  }
});
