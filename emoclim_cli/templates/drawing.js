/* The map: drawing. Only when something has changed, and then in one animation frame. */

// --- the map: drawing ----------------------------------------------------------------------------------------------------------------

let colours = [], ink = "", page = "", quiet = "", line = "";
let backdrop = null;
let placed = []; // the thumbnails on the screen: item, x, y, w, h
let hovered = -1;

function readTheme() {
  const dark = document.documentElement.dataset.theme === "dark";
  colours = data.emotions.map((e) => e.colours[dark ? 1 : 0]);
  colours.forEach((colour, e) => document.documentElement.style.setProperty(`--emotion-${e}`, colour));
  const style = getComputedStyle(document.documentElement);
  [ink, page, quiet, line] = ["--ink", "--page", "--quiet", "--line"].map((name) => style.getPropertyValue(name).trim());
  backdrop = null;
  layer.stale = true;
  invalidate();
}

function surface(w, h) {
  return element("canvas", { width: Math.ceil(w), height: Math.ceil(h) });
}

/** A breath of each emotion's colour where it lies. */
function makeBackdrop() {
  const size = 512;
  backdrop = surface(size, size);
  const paint = backdrop.getContext("2d");
  data.emotions.forEach((e, k) => {
    const x = size / 2 * (1 + 0.5 * e.x / UNITS), y = size / 2 * (1 + 0.5 * e.y / UNITS);
    const glow = paint.createRadialGradient(x, y, 0, x, y, size * 0.24);
    glow.addColorStop(0, `${colours[k]}22`);
    glow.addColorStop(1, `${colours[k]}00`);
    paint.fillStyle = glow;
    paint.fillRect(0, 0, size, size);
  });
}

function radius() {
  const apart = 1.5 * reach / Math.sqrt(Math.max(shownPhotos + shownTracks, 40)) * fitScale;
  const step = clamp(clamp(apart * 0.27, 1.5, 6) * (view.scale / fitScale) ** 0.35, 1.5, 8);
  return Math.round(step * 4) / 4;
}

/** Adds a photo's circle or a track's triangle to a path. */
function trace(paint, x, y, r, photo) {
  if (photo) {
    paint.moveTo(x + r, y);
    paint.arc(x, y, r, 0, 7);
  } else {
    const s = r * 1.5;
    paint.moveTo(x, y - s);
    paint.lineTo(x + s * 0.9, y + s * 0.62);
    paint.lineTo(x - s * 0.9, y + s * 0.62);
    paint.closePath();
  }
}

function frame(now) {
  queued = false;
  if (!width) return;
  if (flight) fly(now);
  draw();
  if (flight) invalidate();
}

function draw() {
  if (pixels !== devicePixelRatio || canvas.width !== Math.round(width * pixels) || canvas.height !== Math.round(height * pixels)) {
    pixels = devicePixelRatio;
    canvas.width = Math.round(width * pixels);
    canvas.height = Math.round(height * pixels);
    layer.stale = true;
  }
  context.setTransform(pixels, 0, 0, pixels, 0, 0);
  context.clearRect(0, 0, width, height);
  const near = clamp(1.4 - 0.4 * view.scale / fitScale, 0, 1); // close up, all would be in one colour
  if (near) {
    if (!backdrop) makeBackdrop();
    const glow = reach * 1.7;
    context.globalAlpha = near;
    context.drawImage(backdrop, toScreenX(-glow), toScreenY(-glow), 2 * glow * view.scale, 2 * glow * view.scale);
    context.globalAlpha = 1;
  }
  const size = thumbnailSize();
  placed = [];
  if (size) {
    drawDots(context, true, 0);
    drawLinks();
    drawThumbnails(size);
    drawDots(context, false, 0);
  } else {
    drawLayer();
    drawLinks();
  }
  drawRings();
  drawNames();
  if (canvas.matches(":focus-visible")) drawCross();
}

/** Every photo or every track in view as a dot: one path for each emotion, what is not searched for faint and below. */
function drawDots(paint, photos, margin) {
  const r = radius(), plain = names.map(() => []), chosen = names.map(() => []);
  eachInView(margin + 2 * r, (i) => {
    if (isPhoto(i) === photos) (state.words.length && found[i] ? chosen : plain)[data.emotion[i]].push(i);
  });
  const fill = (items, radius, colour) => {
    paint.beginPath();
    for (const i of items) trace(paint, toScreenX(X[i]), toScreenY(Y[i]), radius, photos);
    paint.fillStyle = colour;
    paint.fill();
  };
  for (const [groups, alpha] of [[plain, state.words.length ? 0.15 : 1], [chosen, 1]]) {
    paint.globalAlpha = alpha;
    groups.forEach((items, e) => {
      if (r > 2.2 && alpha === 1) fill(items, r + 1, page); // sets them off from others
      fill(items, r, colours[e]);
    });
  }
  paint.globalAlpha = 1;
}

// Far out, thousands of dots are drawn once, in a picture larger than the map, which then moves and grows with it until it comes to rest.
const layer = { canvas: surface(1, 1), stale: true, x0: 0, y0: 0, x1: 0, y1: 0, scale: 0 };
let settling = 0;

function drawLayer() {
  const covers = layer.x0 <= Math.max(left(), -reach) && layer.x1 >= Math.min(right(), reach)
    && layer.y0 <= Math.max(top(), -reach) && layer.y1 >= Math.min(bottom(), reach);
  if (layer.stale || !covers || COUNT < 2000) paintLayer();
  else if (layer.scale !== view.scale) {
    clearTimeout(settling);
    settling = setTimeout(() => { layer.stale = true; invalidate(); }, 120);
  }
  context.drawImage(layer.canvas, toScreenX(layer.x0), toScreenY(layer.y0), (layer.x1 - layer.x0) * view.scale, (layer.y1 - layer.y0) * view.scale);
}

function paintLayer() {
  const margin = Math.round(0.3 * Math.max(width, height));
  Object.assign(layer, { stale: false, scale: view.scale, x0: toWorldX(-margin), y0: toWorldY(-margin) });
  Object.assign(layer, { x1: toWorldX(width + margin), y1: toWorldY(height + margin) });
  layer.canvas.width = (width + 2 * margin) * pixels;
  layer.canvas.height = (height + 2 * margin) * pixels;
  const paint = layer.canvas.getContext("2d");
  paint.setTransform(pixels, 0, 0, pixels, margin * pixels, margin * pixels);
  drawDots(paint, true, margin);
  drawDots(paint, false, margin); // the tracks: there are fewer of them
}

function drawLinks() {
  const from = state.selected;
  if (from < 0 || !shown[from]) return;
  context.strokeStyle = ink;
  context.lineWidth = 1;
  context.globalAlpha = 0.45;
  context.beginPath();
  for (const [to] of matches(from)) {
    if (!shown[to]) continue;
    context.moveTo(toScreenX(X[from]), toScreenY(Y[from]));
    context.lineTo(toScreenX(X[to]), toScreenY(Y[to]));
  }
  context.stroke();
  context.globalAlpha = 1;
}

/** In screen pixels; 0: there is no room for any. */
function thumbnailSize() {
  const size = Math.min(MOST_THUMBNAIL, Math.round(0.7 * spacing() * view.scale));
  return size < LEAST_THUMBNAIL || !shownPhotos ? 0 : size;
}

/** Thumbnails where there is room: the first photos win, so that what is shown does not depend on where one came from. */
function drawThumbnails(size) {
  const candidates = [];
  eachInView(size, (i) => { if (isPhoto(i) && found[i]) candidates.push(i); });
  const first = new Set(state.selected < 0 ? [] : [state.selected, ...matches(state.selected).map(([i]) => i)]);
  candidates.sort((a, b) => first.has(b) - first.has(a) || a - b);
  const taken = new Map(); // cells as large as a thumbnail that stand still in the world -> the item in it
  const pitch = size * 0.94 / view.scale;
  context.imageSmoothingQuality = "medium";
  for (const i of candidates) {
    const cx = Math.floor(X[i] / pitch), cy = Math.floor(Y[i] / pitch);
    let free = true;
    for (let dx = -1; dx <= 1 && free; dx++) {
      for (let dy = -1; dy <= 1 && free; dy++) {
        const other = taken.get((cx + dx) * 65536 + cy + dy);
        free = other === undefined || Math.abs(X[i] - X[other]) >= pitch || Math.abs(Y[i] - Y[other]) >= pitch;
      }
    }
    if (!free) continue;
    taken.set(cx * 65536 + cy, i);
    const picture = bitmap(i);
    if (!picture) continue;
    const shrink = (size - 4) / Math.max(picture.width, picture.height);
    const w = picture.width * shrink, h = picture.height * shrink, x = toScreenX(X[i]) - w / 2, y = toScreenY(Y[i]) - h / 2;
    context.fillStyle = page;
    context.fillRect(x - 3, y - 3, w + 6, h + 6);
    context.fillStyle = colours[data.emotion[i]];
    context.fillRect(x - 2, y - 2, w + 4, h + 4);
    context.drawImage(picture, x, y, w, h);
    placed.push({ item: i, x: x - 2, y: y - 2, w: w + 4, h: h + 4 });
  }
}

function drawRings() {
  const r = radius();
  const ring = (i, colour, thick) => {
    if (i < 0 || !shown[i]) return;
    const box = placed.find(({ item }) => item === i), x = toScreenX(X[i]), y = toScreenY(Y[i]);
    for (const [stroke, wide] of [[page, thick + 3], [colour, thick]]) {
      context.strokeStyle = stroke;
      context.lineWidth = wide;
      if (box) context.strokeRect(box.x - 1, box.y - 1, box.w + 2, box.h + 2);
      else {
        context.beginPath();
        trace(context, x, y, r + 3.5, isPhoto(i));
        context.stroke();
      }
    }
    if (!box) {
      context.beginPath();
      trace(context, x, y, r + 1, isPhoto(i));
      context.fillStyle = colours[data.emotion[i]];
      context.fill();
    }
  };
  if (shown[state.selected]) for (const [i] of matches(state.selected)) ring(i, quiet, 1.5);
  ring(state.playing, quiet, 2.5);
  ring(hovered, ink, 1.5);
  ring(state.selected, ink, 2.5);
}

/** The emotions' names round the items; at the edge, where one has zoomed past them. */
function drawNames() {
  context.font = "600 14px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  const drawn = [];
  names.forEach(({ name, dx, dy, away }, e) => {
    const half = context.measureText(name).width / 2 + 10, tall = 12, gap = radius() + 6;
    const wantX = toScreenX(dx * away) + dx * (half + gap), wantY = toScreenY(dy * away) + dy * (tall + gap);
    const y = clamp(wantY, tall + 8, height - tall - 40);
    const x = clamp(wantX, half + 8, width - half - (y > height - 140 ? 60 : 8)); // the buttons are there
    const moved = Math.hypot(x - wantX, y - wantY) > 60;
    if (moved && drawn.some((other) => Math.abs(other.x - x) < other.half + half + 6 && Math.abs(other.y - y) < 2 * tall + 6)) return;
    drawn.push({ x, y, half });
    context.globalAlpha = moved ? 0.75 : 1;
    context.fillStyle = page;
    pill(x, y, half + 2, tall + 2);
    context.fillStyle = colours[e];
    pill(x, y, half, tall);
    context.fillStyle = readable(colours[e]);
    context.fillText(name, x, y + 0.5);
  });
  context.globalAlpha = 1;
}

function pill(x, y, half, tall) {
  context.beginPath();
  context.roundRect(x - half, y - tall, 2 * half, 2 * tall, tall);
  context.fill();
}

/** Black or white, what can be read better on a colour (relative luminance of WCAG 2). */
function readable(colour) {
  const [r, g, b] = [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16) / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff";
}

function drawCross() {
  const x = width / 2, y = height / 2;
  for (const [stroke, wide] of [[page, 5], [ink, 2]]) {
    context.strokeStyle = stroke;
    context.lineWidth = wide;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 5 * dx, y + 5 * dy);
      context.lineTo(x + 13 * dx, y + 13 * dy);
    }
    context.stroke();
  }
}
