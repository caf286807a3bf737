/* The map's pointer and keys, the bar, and the start. */

// --- the map: pointer and keys -------------------------------------------------------------------------------------------------------

const pointers = new Map();
let travelled = 0;
const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

function hover(i, sx, sy) {
  canvas.classList.toggle("over", i >= 0);
  const tip = $("tip");
  tip.hidden = i < 0;
  if (i !== hovered) {
    hovered = i;
    if (i >= 0) {
      const url = thumbnail(i), image = url ? [element("img", { src: url, alt: "" })] : [];
      tip.replaceChildren(...image, element("b", {}, text(label(i))), text(under(i), "quiet"), text(emotion(i), "quiet"));
    }
    invalidate();
  }
  if (i < 0) return;
  const x = sx + 16 + tip.offsetWidth > width ? sx - 16 - tip.offsetWidth : sx + 16;
  tip.style.transform = `translate(${Math.max(4, x)}px, ${clamp(sy + 14, 4, Math.max(4, height - tip.offsetHeight - 4))}px)`;
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, at(event));
  if (pointers.size === 1) travelled = 0;
  flight = null;
});
canvas.addEventListener("pointermove", (event) => {
  const now = at(event), before = pointers.get(event.pointerId);
  if (!before) return event.pointerType === "touch" ? undefined : hover(pick(...now), ...now);
  const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  pointers.set(event.pointerId, now);
  travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
  if (others.length) { // two fingers: what lies between them stays there
    const apart = (place) => Math.hypot(place[0] - others[0][0], place[1] - others[0][1]);
    zoom(apart(now) / Math.max(apart(before), 1), (now[0] + others[0][0]) / 2, (now[1] + others[0][1]) / 2);
    moveTo(view.x - (now[0] - before[0]) / 2 / view.scale, view.y - (now[1] - before[1]) / 2 / view.scale, view.scale);
  } else if (travelled > 4) {
    canvas.classList.add("dragging");
    hover(-1);
    moveTo(view.x - (now[0] - before[0]) / view.scale, view.y - (now[1] - before[1]) / view.scale, view.scale);
  }
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, (event) => {
    if (!pointers.delete(event.pointerId) || pointers.size) return;
    canvas.classList.remove("dragging");
    if (name === "pointerup" && travelled <= 4) select(pick(...at(event), event.pointerType === "touch" ? 16 : 5));
  });
}
canvas.addEventListener("pointerleave", () => hover(-1));
canvas.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  flight = null;
  const steps = event.deltaY * (event.deltaMode === 1 ? 20 : event.deltaMode === 2 ? 200 : 1);
  zoom(Math.exp(-clamp(steps, -240, 240) * (event.ctrlKey ? 0.01 : 0.0022)), ...at(event));
  hover(-1);
}, { passive: false });
canvas.addEventListener("focus", invalidate);
canvas.addEventListener("blur", invalidate);

/** Selects what is nearest to the middle of the map. */
function enter() {
  let best = -1, least = Infinity;
  eachInView(0, (i) => {
    const distance = (X[i] - view.x) ** 2 + (Y[i] - view.y) ** 2;
    if (found[i] && distance < least) [best, least] = [i, distance];
  });
  if (best >= 0) select(best);
}

/** One thing at a time: the selection, the search, the filter. */
function clear() {
  if (state.selected >= 0) select(-1);
  else if (state.words.length) clearSearch();
  else if (state.emotions.size) clearEmotions();
}

const pan = (dx, dy) => { flight = null; moveTo(view.x + dx / view.scale, view.y + dy / view.scale, view.scale); };
const KEYS = {
  "/": () => { $("search").focus(); $("search").select(); },
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), "0": fit,
  n: () => neighbour(1), p: () => neighbour(-1), " ": playOrPause,
  Escape: clear,
};
const MAP_KEYS = { ArrowLeft: () => pan(-60, 0), ArrowRight: () => pan(60, 0), ArrowUp: () => pan(0, -60), ArrowDown: () => pan(0, 60), Enter: enter };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const focus = event.target, onMap = focus === canvas || focus === document.body;
  if (focus.closest("input, select") && event.key !== "Escape") return;
  if (event.key === " " && focus.closest("button, a")) return;
  const act = KEYS[event.key] ?? (onMap ? MAP_KEYS[event.key] : undefined);
  if (!act) return;
  event.preventDefault();
  act();
});

// --- the bar -------------------------------------------------------------------------------------------------------------------------

function choices() {
  const circle = data.emotions.map((e, k) => [Math.atan2(e.y, e.x), k]).sort((a, b) => a[0] - b[0]).map(([, k]) => k);
  for (const e of circle) { // in the order of the map
    const chip = coloured(element("button", { type: "button" }, data.emotions[e].name, element("span", { className: "quiet" })), e);
    chip.dataset.emotion = e;
    chip.addEventListener("click", () => toggleEmotion(e));
    $("chips").append(chip);
  }
  const clear = element("button", { type: "button", id: "clear", textContent: "show all", hidden: true });
  clear.addEventListener("click", clearEmotions);
  $("chips").append(clear);
  const depths = [];
  data.folders.forEach(({ parent }) => depths.push(parent < 0 ? 0 : depths[parent] + 1));
  const last = (name) => name.split(/[/\\]/).pop();
  const options = data.folders.map(({ name, parent }, f) => {
    const shown = parent < 0 ? name : name.startsWith(data.folders[parent].name) ? name.slice(data.folders[parent].name.length + 1) : last(name);
    return element("option", { value: f, textContent: "\u00a0\u00a0\u00a0".repeat(depths[f]) + shown });
  });
  $("folder").append(element("option", { value: -1, textContent: "All folders" }), ...options);
  $("folder").addEventListener("change", () => { state.folder = Number($("folder").value); filter(); });
  for (const kind of document.getElementsByName("kind")) {
    kind.checked = kind.value === "all"; // browsers remember what was chosen before a reload
    kind.addEventListener("change", () => { state.kind = kind.value; filter(); });
  }
  for (const [id, name] of [["zoom-in", "plus"], ["zoom-out", "minus"], ["zoom-fit", "fit"], ["theme", "moon"]]) $(id).append(icon(name));
  $("zoom-in").addEventListener("click", () => zoom(1.6));
  $("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  $("zoom-fit").addEventListener("click", fit);
  dressPlayButton($("player-play"));
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
  readTheme();
}

const darkness = matchMedia("(prefers-color-scheme: dark)");
darkness.addEventListener("change", () => setTheme(darkness.matches));
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));

new ResizeObserver(() => {
  [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (fitted) fit();
  invalidate();
}).observe(canvas);
document.addEventListener("DOMContentLoaded", () => {
  if (state.selected >= 0) select(state.selected);
  changed();
});

choices();
setTheme(darkness.matches);
$("search").value = "";
filter();
