/* The map: where one looks, and which items are where.

   Words: world = the map's own units (1 = where the emotions lie), screen = CSS pixels of the canvas. */

// --- the map: where one looks --------------------------------------------------------------------------------------------------------

const canvas = $("map");
const context = canvas.getContext("2d");
let width = 0, height = 0, pixels = 1; // CSS pixels, and device pixels in each
const view = { x: 0, y: 0, scale: 1 }; // the world point in the middle, and screen pixels to one unit of the world
let fitScale = 1, flight = null, fitted = true;

// How far from the centre items lie, in all and towards each emotion: there its name is written.
const names = data.emotions.map((e) => ({ name: e.name, dx: e.x / UNITS, dy: e.y / UNITS, away: 0.3 }));
let reach = 0.4;
for (let i = 0; i < COUNT; i++) {
  const far = Math.hypot(X[i], Y[i]);
  reach = Math.max(reach, far);
  for (const name of names) {
    const along = X[i] * name.dx + Y[i] * name.dy;
    if (along > 0.9 * far) name.away = Math.max(name.away, along);
  }
}

const toScreenX = (x) => (x - view.x) * view.scale + width / 2, toScreenY = (y) => (y - view.y) * view.scale + height / 2;
const toWorldX = (sx) => (sx - width / 2) / view.scale + view.x, toWorldY = (sy) => (sy - height / 2) / view.scale + view.y;
const left = () => toWorldX(0), right = () => toWorldX(width), top = () => toWorldY(0), bottom = () => toWorldY(height);

let queued = false;
function invalidate() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(frame);
}

/** What is shown is another: draws it, and lists it once it stays. */
function changed() {
  invalidate();
  if (state.tab !== "list") return;
  clearTimeout(listing);
  listing = setTimeout(() => { state.listed = PAGE; list(); }, 150);
}

function moveTo(x, y, scale) {
  const edge = reach * 1.2;
  view.x = clamp(x, -edge, edge);
  view.y = clamp(y, -edge, edge);
  view.scale = possible(scale);
  fitted = false;
  changed();
}

function zoom(factor, sx = width / 2, sy = height / 2) {
  const x = toWorldX(sx), y = toWorldY(sy);
  const scale = possible(view.scale * factor);
  moveTo(x - (sx - width / 2) / scale, y - (sy - height / 2) / scale, scale);
}

/** From a little smaller than all to thumbnails with room between them. */
const possible = (scale) => clamp(scale, fitScale * 0.7, Math.max(8 * fitScale, 3 * MOST_THUMBNAIL / (reach * 1.5 / Math.sqrt(COUNT))));

/** Everything, and the names round it. */
function fit() {
  const xs = names.map((name) => name.dx * name.away), ys = names.map((name) => name.dy * name.away);
  const x0 = Math.min(...X, ...xs), x1 = Math.max(...X, ...xs), y0 = Math.min(...Y, ...ys), y1 = Math.max(...Y, ...ys);
  fitScale = Math.max(40, Math.min((width - 150) / (x1 - x0), (height - 120) / (y1 - y0)));
  moveTo((x0 + x1) / 2, (y0 + y1) / 2 + 8 / fitScale, fitScale);
  fitted = true;
}

/** A scale at which single items can be told apart. */
const closeUp = () => possible(Math.max(fitScale, 1.8 * LEAST_THUMBNAIL / spacing()));

const calm = matchMedia("(prefers-reduced-motion: reduce)");
function flyTo(x, y, scale) {
  if (calm.matches) return moveTo(x, y, scale);
  flight = { from: { ...view }, to: { x, y, scale }, start: performance.now() };
  invalidate();
}

function fly(now) {
  const { from, to, start } = flight;
  const t = clamp((now - start) / 350, 0, 1), ease = t * t * (3 - 2 * t);
  const scale = from.scale * (to.scale / from.scale) ** ease;
  const near = to.scale === from.scale ? ease : ((scale - from.scale) / (to.scale - from.scale)) * (to.scale / scale);
  if (t === 1) flight = null;
  moveTo(from.x + (to.x - from.x) * near, from.y + (to.y - from.y) * near, scale);
}

// --- the map: which items are where --------------------------------------------------------------------------------------------------

// A grid of cells with about four items each; those of cell c are cellItems[cellStarts[c]] up to cellItems[cellStarts[c + 1] - 1].
const CELLS = Math.max(1, Math.ceil(Math.sqrt(COUNT) / 2)), CELL = (2 * reach) / CELLS;
const column = (w) => clamp(Math.floor((w + reach) / CELL), 0, CELLS - 1);
const cellStarts = new Uint32Array(CELLS * CELLS + 1), cellItems = new Uint32Array(COUNT);
{
  const cellOf = Uint32Array.from(X, (x, i) => column(Y[i]) * CELLS + column(x));
  for (const c of cellOf) cellStarts[c + 1]++;
  for (let c = 0; c < CELLS * CELLS; c++) cellStarts[c + 1] += cellStarts[c];
  const next = cellStarts.slice();
  cellOf.forEach((c, i) => { cellItems[next[c]++] = i; });
}

/** Calls with each shown item in a rectangle of the world. */
function eachWithin(x0, y0, x1, y1, call) {
  for (let r = column(y0), last = column(y1); r <= last; r++) {
    const from = cellStarts[r * CELLS + column(x0)], to = cellStarts[r * CELLS + column(x1) + 1];
    for (let k = from; k < to; k++) {
      const i = cellItems[k];
      if (shown[i] && X[i] >= x0 && X[i] <= x1 && Y[i] >= y0 && Y[i] <= y1) call(i);
    }
  }
}

const eachInView = (margin, call) => eachWithin(toWorldX(-margin), toWorldY(-margin), toWorldX(width + margin), toWorldY(height + margin), call);

/** World distance between photos if those shown were evenly spread. */
const spacing = () => 1.5 * reach / Math.sqrt(Math.max(shownPhotos, 12));

/** The item under a point of the screen, -1: none. */
function pick(sx, sy, slack = 5) {
  for (let k = placed.length - 1; k >= 0; k--) {
    const { item, x, y, w, h } = placed[k];
    if (sx >= x && sx <= x + w && sy >= y && sy <= y + h) return item;
  }
  const within = radius() * 1.3 + slack, x = toWorldX(sx), y = toWorldY(sy), d = within / view.scale;
  let best = -1, least = d * d;
  eachWithin(x - d, y - d, x + d, y + d, (i) => {
    const distance = (X[i] - x) ** 2 + (Y[i] - y) ** 2;
    if (distance <= least) [best, least] = [i, distance];
  });
  return best;
}
