"""Style and script of a dashboard: runs are shown and hidden, a slider moves all pictures through
the images seen, clouds turn under the pointer.
"""

from __future__ import annotations

HEAD = """<style>
body { max-width: none; }
h3 { font-size: .95rem; margin: 1.4rem 0 .1rem; }
.hint { margin: .2rem 0 .5rem; }
.legend { position: sticky; top: 0; z-index: 2; background: var(--paper); display: flex;
  flex-wrap: wrap; gap: .3rem 1.2rem; padding: .5rem 0; }
.legend label { cursor: pointer; }
i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .4em;
  background: var(--own); }
.slider { position: sticky; top: 2.3rem; z-index: 2; background: var(--paper); display: flex;
  gap: 1rem; padding: .4rem 0; }
.slider input { flex: 1; max-width: 40rem; }
.beside { display: grid; gap: 1rem; grid-auto-flow: column;
  grid-auto-columns: minmax(260px, 1fr); overflow-x: auto; }
.beside figcaption i { margin-left: 0; }
.beside video { max-width: 640px; }
canvas { width: 100%; max-width: 360px; aspect-ratio: 1; background: var(--tile);
  border-radius: 6px; touch-action: none; cursor: grab; }
.curves { grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); }
.hidden { display: none; }
</style>
<script>
addEventListener("DOMContentLoaded", () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (what, within = document) => [...within.querySelectorAll(what)];

  // runs are shown and hidden
  for (const box of all(".legend input")) box.addEventListener("change", () => {
    for (const part of all(`[data-run="${box.dataset.run}"]`))
      if (part !== box) part.classList.toggle("hidden", !box.checked);
  });

  // the slider: the last picture until then, of each run
  const slider = document.getElementById("kimg"), kimg = value => `${+value.toPrecision(6)} kimg`;
  const show = () => {
    const now = data.times[slider.value];
    document.querySelector("output").textContent = kimg(now);
    for (const picture of all("img[data-key]")) {
      const figure = picture.closest("figure");
      const moments = data.pictures[picture.dataset.key][figure.dataset.run];
      const seen = moments.filter(([when]) => when <= now).at(-1);
      picture.classList.toggle("hidden", !seen);
      figure.querySelector("figcaption span").textContent =
        seen ? kimg(seen[0]) : moments.length ? `from ${kimg(moments[0][0])} on` : "has none";
      if (seen && picture.src !== seen[1]) picture.src = seen[1];
    }
  };
  if (slider && data.times.length) { slider.addEventListener("input", show); show(); }

  // clouds
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  for (const canvas of all("canvas[data-key]")) {
    const figure = canvas.closest("figure"), caption = figure.querySelector("figcaption span");
    const cloud = data.clouds[canvas.dataset.key][figure.dataset.run];
    if (!cloud) { canvas.remove(); caption.textContent = "has none"; continue; }
    caption.textContent = kimg(cloud.kimg);
    const places = new Int16Array(bytes(cloud.places).buffer), colors = bytes(cloud.colors);
    const pen = canvas.getContext("2d"), half = canvas.width / 2;
    const size = Math.max(3, Math.min(12, half / Math.sqrt(places.length / 9)));  // three views
    let yaw = 0.5, pitch = 0.1;
    const draw = () => {
      pen.clearRect(0, 0, canvas.width, canvas.height);
      const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
      const turned = [];
      for (let k = 0; k < places.length; k += 3) {
        const [x, y, z] = [places[k] / 16000, places[k + 1] / 16000, places[k + 2] / 16000];
        const away = cy * z + sy * x;
        turned.push([cy * x - sy * z, cp * y - sp * away, cp * away + sp * y, k]);
      }
      for (const [x, y, , k] of turned.sort((a, b) => a[2] - b[2])) {
        pen.fillStyle = `rgb(${colors[k]},${colors[k + 1]},${colors[k + 2]})`;
        const [left, top] = [half + 0.8 * half * x, half - 0.8 * half * y];
        pen.fillRect(Math.round(left - size / 2), Math.round(top - size / 2), size, size);
      }
    };
    canvas.addEventListener("pointerdown", event => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", event => {
      if (!event.buttons) return;
      yaw -= event.movementX / 100;
      pitch += event.movementY / 100;
      draw();
    });
    draw();
  }
});
</script>
"""
