/* The gallery's items: their data, thumbnails and elements, which of them are shown, and the search.

   An item is a number: photos are 0..PHOTOS-1, tracks follow. Nothing from a file ever becomes markup: only textContent and attributes of
   elements made here. The parts are put together as one strict function, in the order of `gallery.SCRIPTS`. */

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("library").textContent);
const COUNT = data.x.length, PHOTOS = data.photos, TRACKS = COUNT - PHOTOS, EMOTIONS = data.emotions.length;
const UNITS = 10000;
const RESULTS = 30, PAGE = 100, NEIGHBOURS = 200;
const LEAST_THUMBNAIL = 26, MOST_THUMBNAIL = 132, MOST_LOADING = 16, BITMAP_BYTES = 96e6;
const number = new Intl.NumberFormat("en");

const X = Float32Array.from(data.x, (x) => x / UNITS), Y = Float32Array.from(data.y, (y) => y / UNITS);
const isPhoto = (i) => i < PHOTOS;
const fileName = (i) => data.names[i] ?? decodeURIComponent(data.file[i]);
const folderOf = (i) => data.folders[data.folder[i]];
const link = (i) => folderOf(i).link + data.file[i];
const label = (i) => (isPhoto(i) ? "" : data.title[i - PHOTOS]) || fileName(i);
const credit = (i) => (isPhoto(i) ? "" : data.artist[i - PHOTOS]);
const album = (i) => (isPhoto(i) ? "" : data.album[i - PHOTOS]);
const under = (i) => (isPhoto(i) ? data.taken[i] : [credit(i), album(i)].filter(Boolean).join(" · ")) || folderOf(i).name;
const emotion = (i) => data.emotions[data.emotion[i]].name;
const share = (i, e) => data.shares[i * EMOTIONS + e];
const suffix = (i) => fileName(i).split(".").pop().toLowerCase();
const counted = (n, one, many) => `${number.format(n)} ${n === 1 ? one : many}`;
const clamp = (x, least, most) => Math.min(most, Math.max(least, x));

/** [item, score in per cent] of what goes with an item, best first. */
function matches(i) {
  const { count, items, scores } = isPhoto(i) ? data.tracksOf : data.photosOf;
  const row = (isPhoto(i) ? i : i - PHOTOS) * count;
  return Array.from({ length: count }, (_, k) => [items[row + k] + (isPhoto(i) ? PHOTOS : 0), scores[row + k]]);
}

const state = {
  kind: "all", emotions: new Set(), folder: -1, words: [],
  selected: -1, trail: [], step: 0, playing: -1, tab: "item", listed: PAGE,
};
const shown = new Uint8Array(COUNT); // passes the filters
const found = new Uint8Array(COUNT).fill(1); // has the words that are searched for
let shownPhotos = 0, shownTracks = 0;

// --- elements ------------------------------------------------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const text = (words, className = "", whole = false) =>
  element("span", { className: `text ${className} ${whole ? "whole" : ""}`, textContent: words, title: whole ? "" : words });

const ICONS = {
  play: ["M7 4.5v15l13-7.5z"], pause: ["M7 5h4v14H7zM14 5h4v14h-4z"],
  plus: ["M12 5v14M5 12h14"], minus: ["M5 12h14"], fit: ["M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5"],
  moon: ["M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z"],
  note: ["M9 18V5l11-2v13", "M9 18a3 3 0 1 1-6 0 3 3 0 0 1 6 0z", "M20 16a3 3 0 1 1-6 0 3 3 0 0 1 6 0z"],
  photo: ["M3 5h18v14H3z", "M3 16l5-5 4 4 3-3 6 6"],
};
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  if (name === "play" || name === "pause") svg.classList.add("solid");
  for (const d of ICONS[name]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

function coloured(made, e) {
  made.style.setProperty("--colour", `var(--emotion-${e})`);
  return made;
}

// --- thumbnails: scripts of some hundred each, below this one and perhaps still on their way; each is read when it is first needed ---

const parts = new Map();
function thumbnail(i) {
  if (!isPhoto(i)) return "";
  const part = Math.floor(i / data.thumbnailsPerScript);
  if (!parts.has(part)) {
    const script = $(`thumbnails-${part}`);
    if (!script || (document.readyState === "loading" && !script.nextElementSibling)) return "";
    parts.set(part, JSON.parse(script.textContent));
    script.textContent = "";
  }
  const base64 = parts.get(part)[i % data.thumbnailsPerScript];
  return base64 && `data:image/webp;base64,${base64}`;
}

const bitmaps = new Map(); // item -> its picture, the one used longest ago first; null: it has none
const loading = new Set();
let bitmapBytes = 0;

/** The picture to draw, or null: then it may come later. */
function bitmap(i) {
  if (bitmaps.has(i)) {
    const known = bitmaps.get(i);
    bitmaps.delete(i);
    bitmaps.set(i, known);
    return known;
  }
  if (!loading.has(i) && loading.size < MOST_LOADING) load(i);
  return null;
}

async function load(i) {
  const url = thumbnail(i);
  if (!url) {
    if (document.readyState !== "loading") bitmaps.set(i, null);
    return;
  }
  loading.add(i);
  let made = null;
  try {
    const image = new Image();
    image.src = url;
    await image.decode();
    made = await createImageBitmap(image);
    bitmapBytes += 4 * made.width * made.height;
  } catch { /* it stays a dot */ }
  loading.delete(i);
  bitmaps.set(i, made);
  for (const [old, picture] of bitmaps) {
    if (bitmapBytes <= BITMAP_BYTES || placed.some((box) => box.item === old)) break;
    bitmaps.delete(old);
    if (picture) bitmapBytes -= 4 * picture.width * picture.height;
    picture?.close();
  }
  invalidate();
}

/** A picture as an element: the thumbnail, or a sign where there is none. */
function mark(i, className = "mark") {
  const url = thumbnail(i);
  return url ? element("img", { className, src: url, alt: "" }) : element("span", { className }, icon(isPhoto(i) ? "photo" : "note"));
}

// --- which items are shown -----------------------------------------------------------------------------------------------------------

/** For each folder, whether it is the chosen one or lies in it. */
function foldersInside(chosen) {
  const inside = data.folders.map(() => chosen < 0);
  data.folders.forEach(({ parent }, f) => { inside[f] ||= f === chosen || (parent >= 0 && inside[parent]); }); // parents come first
  return inside;
}

function filter() {
  const inside = foldersInside(state.folder), counts = new Array(EMOTIONS).fill(0);
  shownPhotos = shownTracks = 0;
  for (let i = 0; i < COUNT; i++) {
    const fits = inside[data.folder[i]] && (state.kind === "all" || (state.kind === "photos") === isPhoto(i));
    if (fits) counts[data.emotion[i]]++;
    shown[i] = fits && (!state.emotions.size || state.emotions.has(data.emotion[i])) ? 1 : 0;
    if (shown[i]) isPhoto(i) ? shownPhotos++ : shownTracks++;
  }
  showChips(counts);
  $("status").textContent = `${counted(shownPhotos, "photo", "photos")} and ${counted(shownTracks, "track", "tracks")} shown`;
  state.trail = [];
  search();
}

function showChips(counts) {
  for (const chip of $("chips").querySelectorAll("[data-emotion]")) {
    const e = Number(chip.dataset.emotion);
    chip.setAttribute("aria-pressed", String(state.emotions.has(e)));
    chip.classList.toggle("none", !counts[e]);
    chip.lastChild.textContent = number.format(counts[e]);
  }
  $("clear").hidden = !state.emotions.size;
}

function toggleEmotion(e) {
  if (!state.emotions.delete(e)) state.emotions.add(e);
  filter();
}

function clearEmotions() {
  const focused = document.activeElement === $("clear");
  state.emotions.clear();
  filter();
  if (focused) $("chips").firstChild.focus();
}

// --- search --------------------------------------------------------------------------------------------------------------------------

const folded = (words) => words.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
let haystacks = null;
let results = [], active = -1;

function search() {
  const query = folded($("search").value.trim());
  state.words = query.split(/\s+/).filter(Boolean);
  layer.stale = true;
  if (!state.words.length) {
    found.fill(1);
    showResults([], 0, 0);
    changed();
    return;
  }
  haystacks ??= Array.from({ length: COUNT }, (_, i) => folded([label(i), credit(i), album(i), fileName(i), folderOf(i).name].join("\n")));
  const best = [[], [], []];
  let hidden = 0;
  for (let i = 0; i < COUNT; i++) {
    const text = haystacks[i];
    found[i] = state.words.every((word) => text.includes(word)) ? 1 : 0;
    if (!found[i]) continue;
    if (!shown[i]) { hidden++; continue; }
    best[text.startsWith(query) ? 0 : text.slice(0, text.indexOf("\n")).includes(query) ? 1 : 2].push(i);
  }
  const all = best.flat();
  showResults(all.slice(0, RESULTS), all.length, hidden);
  changed();
}

function clearSearch() {
  $("search").value = "";
  search();
}

function showResults(items, total, hidden) {
  results = items;
  $("results").replaceChildren(...items.map((i, k) => {
    const row = element("li", { className: "row", id: `result-${k}` }, mark(i), what(i), feel(i));
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", "false");
    row.addEventListener("click", () => takeResult(k));
    return row;
  }));
  const rest = [];
  if (state.words.length && !total) rest.push("Nothing found.");
  if (total > items.length) rest.push(`${number.format(total - items.length)} more: type more of the name.`);
  if (hidden) rest.push(`${number.format(hidden)} found among what the filters hide.`);
  $("more-results").textContent = rest.join(" ");
  openResults(state.words.length > 0 && document.activeElement === $("search"));
  activate(items.length ? 0 : -1);
  if (state.words.length) announce(`${counted(total, "result", "results")}. ${hidden ? rest.at(-1) : ""}`);
}

function openResults(open) {
  $("found").hidden = !open;
  $("search").setAttribute("aria-expanded", String(open));
}

function activate(k) {
  $(`result-${active}`)?.setAttribute("aria-selected", "false");
  active = k;
  const row = $(`result-${k}`);
  row?.setAttribute("aria-selected", "true");
  row?.scrollIntoView({ block: "nearest" });
  row ? $("search").setAttribute("aria-activedescendant", row.id) : $("search").removeAttribute("aria-activedescendant");
}

function takeResult(k) {
  const i = results[k];
  clearSearch(); // or what goes with it would stay faint
  openResults(false);
  select(i, { go: true });
}

$("search").addEventListener("input", search);
$("search").addEventListener("focus", () => openResults(state.words.length > 0));
$("search").addEventListener("keydown", (event) => {
  if ((event.key === "ArrowDown" || event.key === "ArrowUp") && results.length) {
    event.preventDefault();
    openResults(true);
    activate((active + (event.key === "ArrowDown" ? 1 : results.length - 1)) % results.length);
  } else if (event.key === "Enter" && results.length) {
    takeResult(Math.max(active, 0));
    $("map").focus();
  } else if (event.key === "Escape") {
    event.preventDefault();
    event.stopPropagation();
    if ($("search").value) clearSearch();
    else $("map").focus();
  }
});
document.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".search")) openResults(false);
});
document.querySelector(".search").addEventListener("focusout", (event) => {
  if (event.relatedTarget && !event.relatedTarget.closest(".search")) openResults(false);
});
