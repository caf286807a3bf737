"use strict";
/* The gallery. An item is a number: photos are 0..PHOTOS-1, tracks follow. Nothing from a file ever becomes markup: only textContent and
   attributes of elements made here. Words: world = the map's own units (1 = where the emotions lie), screen = CSS pixels of the canvas. */
(() => {
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

  // --- rows ----------------------------------------------------------------------------------------------------------------------------

  const what = (i) => element("span", { className: "what" }, text(label(i)), text(under(i), "under"));
  const feel = (i) => coloured(element("span", { className: "feel", title: emotion(i) }), data.emotion[i]);
  const spoken = (i) => [isPhoto(i) ? "photo" : "track", label(i), credit(i), emotion(i)].filter(Boolean).join(", ");

  /** A list item: its picture or play button, a button that selects it, and what is put after that. */
  function row(i, ...after) {
    const go = element("button", { type: "button", className: "go" }, what(i));
    go.setAttribute("aria-label", spoken(i));
    const made = element("li", { className: "row" }, isPhoto(i) ? mark(i) : playButton(i), go, ...after);
    made.classList.toggle("current", i === state.selected);
    made.addEventListener("pointerenter", () => { hovered = i; invalidate(); });
    made.addEventListener("pointerleave", () => { hovered = -1; invalidate(); });
    made.addEventListener("click", (event) => {
      if (!event.target.closest(".play")) select(i, { show: true });
    });
    return made;
  }

  // --- the selected item ---------------------------------------------------------------------------------------------------------------

  function select(i, { go = false, show = false, trail = false } = {}) {
    state.selected = i;
    if (!trail) state.trail = [];
    $("welcome").hidden = i >= 0;
    $("item").hidden = i < 0;
    $("item").replaceChildren(...(i < 0 ? [] : details(i)));
    if (i >= 0) {
      openTab("item");
      $("panel-item").scrollTop = 0;
      const outside = X[i] < left() || X[i] > right() || Y[i] < top() || Y[i] > bottom();
      const scale = go ? Math.max(view.scale, closeUp()) : view.scale;
      if (scale > view.scale || ((go || show || trail) && outside)) flyTo(X[i], Y[i], scale);
      announce(`Selected: ${spoken(i)}`);
    }
    changed();
  }

  function details(i) {
    const pairs = matches(i);
    const heading = element("h2", {}, text(label(i), "", true));
    const open = element("a", { href: link(i), target: "_blank", rel: "noopener", textContent: "open the file" });
    const facts = element("p", { className: "facts" }, text(isPhoto(i) ? data.taken[i] : [credit(i), album(i)].filter(Boolean).join(" · "), "", true));
    const place = element("p", { className: "facts" }, text(folderOf(i).name, "", true), open);
    const bars = element("ul", { className: "bars" }, ...data.emotions.map((_, e) => e).sort((a, b) => share(i, b) - share(i, a)).map((e) => bar(i, e)));
    bars.setAttribute("aria-label", "Emotions");
    if (isPhoto(i)) {
      const list = element("ul", {}, ...pairs.map(([t, s]) => row(t, score(s))));
      const music = pairs.length ? list : element("p", { className: "quiet", textContent: "There is no music in this library." });
      return [picture(i), heading, facts, place, bars, element("h3", { textContent: "Music that feels like it" }), music];
    }
    const grid = element("ul", { className: "grid" }, ...pairs.map(([p]) => element("li", {}, photoButton(p))));
    const photos = pairs.length ? grid : element("p", { className: "quiet", textContent: "There are no photos in this library." });
    const head = element("div", { className: "head" }, playButton(i, "play icon large"), element("div", {}, heading, facts));
    return [head, place, bars, element("h3", { textContent: "Photos that feel like it" }), photos];
  }

  function bar(i, e) {
    const strip = coloured(element("span", { className: "bar" }), e);
    strip.style.setProperty("--share", `${share(i, e)}%`);
    const name = element("span", { textContent: data.emotions[e].name });
    return element("li", {}, name, strip, element("span", { className: "share", textContent: `${share(i, e)} %` }));
  }

  const score = (percent) => element("span", { className: "score", textContent: (percent / 100).toFixed(2), title: "how well it fits, up to 1" });

  function photoButton(i) {
    const url = thumbnail(i);
    const made = element("button", { type: "button", title: label(i) }, url ? mark(i, "") : text(label(i)));
    made.setAttribute("aria-label", spoken(i));
    made.addEventListener("click", () => select(i, { show: true }));
    return made;
  }

  const SHOWN_BY_BROWSERS = new Set("jpg jpeg jpe jfif png apng webp gif bmp avif".split(" "));

  /** The thumbnail, and the photo itself as soon as it is read. */
  function picture(i) {
    const image = element("img", { alt: "" });
    const open = element("a", { href: link(i), target: "_blank", rel: "noopener" }, image);
    open.setAttribute("aria-label", `Open ${label(i)}`);
    const figure = element("figure", {}, open);
    const small = thumbnail(i);
    if (small) image.src = small;
    if (SHOWN_BY_BROWSERS.has(suffix(i))) {
      const whole = new Image();
      whole.addEventListener("load", () => { image.src = whole.src; });
      whole.addEventListener("error", () => {
        figure.append(element("p", { className: "problem", textContent: "The photo itself cannot be read: it may have been moved, or this page was." }));
      });
      whole.src = link(i);
    }
    return figure;
  }

  /** To the next or the previous neighbour of what was selected by other means. */
  function neighbour(by) {
    if (state.selected < 0) return enter();
    if (!state.trail.length) {
      const from = state.selected;
      const distance = (i) => (X[i] - X[from]) ** 2 + (Y[i] - Y[from]) ** 2;
      const others = [];
      for (let i = 0; i < COUNT; i++) if (i !== from && shown[i] && found[i]) others.push([distance(i), i]);
      others.sort((a, b) => a[0] - b[0]);
      state.trail = [from, ...others.slice(0, NEIGHBOURS).map(([, i]) => i)];
      state.step = 0;
    }
    state.step = (state.step + by + state.trail.length) % state.trail.length;
    select(state.trail[state.step], { trail: true });
  }

  let said = 0;
  function announce(words) {
    clearTimeout(said);
    said = setTimeout(() => { $("announce").textContent = words; }, 150);
  }

  // --- what is in view, as text --------------------------------------------------------------------------------------------------------

  let ranks = null; // item -> place in the order of names
  let listing = 0;

  function list() {
    if (state.tab !== "list") return;
    if (!ranks) {
      const collator = new Intl.Collator(undefined, { numeric: true });
      const names = Array.from({ length: COUNT }, (_, i) => label(i));
      ranks = new Uint32Array(COUNT);
      names.map((_, i) => i).sort((a, b) => collator.compare(names[a], names[b])).forEach((i, rank) => { ranks[i] = rank; });
    }
    const items = [];
    eachInView(0, (i) => { if (found[i]) items.push(i); });
    items.sort((a, b) => ranks[a] - ranks[b]);
    const photos = items.reduce((n, i) => n + isPhoto(i), 0);
    $("list-count").textContent = `${counted(photos, "photo", "photos")} and ${counted(items.length - photos, "track", "tracks")} in view`;
    $("list").replaceChildren(...items.slice(0, state.listed).map((i) => row(i, feel(i))));
    const more = items.length - state.listed;
    $("list-more").hidden = more <= 0;
    $("list-more").textContent = `Show ${number.format(Math.min(more, PAGE))} more of ${number.format(more)}`;
  }

  $("list-more").addEventListener("click", () => {
    const first = state.listed;
    state.listed += PAGE;
    list();
    $("list").children[first]?.querySelector(".go").focus();
  });

  function openTab(name) {
    state.tab = name;
    for (const tab of ["item", "list"]) {
      $(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
      $(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
      $(`panel-${tab}`).hidden = tab !== name;
    }
    list();
  }
  for (const [name, other] of [["item", "list"], ["list", "item"]]) {
    $(`tab-${name}`).addEventListener("click", () => openTab(name));
    $(`tab-${name}`).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      openTab(other);
      $(`tab-${other}`).focus();
    });
  }

  // --- the player ----------------------------------------------------------------------------------------------------------------------

  const audio = $("audio");
  const time = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;
  const TYPES = { mp3: "audio/mpeg", m4a: "audio/mp4", aac: "audio/aac", flac: "audio/flac", ogg: "audio/ogg", oga: "audio/ogg", opus: "audio/ogg; codecs=opus",
    wav: "audio/wav", wave: "audio/wav", weba: "audio/webm", wma: "audio/x-ms-wma", aif: "audio/aiff", aiff: "audio/aiff", ape: "audio/x-ape",
    wv: "audio/x-wavpack", tta: "audio/x-tta", dsf: "audio/x-dsf", mka: "audio/x-matroska", ac3: "audio/ac3", mpc: "audio/x-musepack" };

  function playButton(i, className = "play icon") {
    const made = element("button", { type: "button", className });
    made.dataset.track = i;
    made.addEventListener("click", () => play(i));
    dressPlayButton(made);
    return made;
  }

  function dressPlayButton(button) {
    const i = Number(button.dataset.track), on = i === state.playing && !audio.paused;
    button.replaceChildren(icon(on ? "pause" : "play"));
    button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${i >= 0 ? label(i) : ""}`);
    button.setAttribute("aria-pressed", String(on));
  }

  /** Plays a track, or pauses it where it is the one that plays. */
  function play(i) {
    if (i === state.playing && !audio.paused) return audio.pause();
    if (i !== state.playing) {
      state.playing = i;
      audio.src = link(i);
      $("player").hidden = false;
      $("player-track").replaceChildren(text(label(i)), text(credit(i), "under"));
      $("player-track").setAttribute("aria-label", `Show ${label(i)}`);
      $("player-play").dataset.track = i;
      changed();
    }
    $("player-problem").textContent = "";
    audio.play().catch((error) => {
      if (error.name === "NotAllowedError") problem("The browser did not let it play: press Play once more.");
    }); // other failures come as the element's error, below
    showPlaying();
  }

  function problem(words) {
    const i = state.playing;
    const open = element("a", { href: link(i), target: "_blank", rel: "noopener", textContent: "open the file" });
    $("player-problem").replaceChildren(`${label(i)}: ${words}`, open);
    showPlaying();
  }

  function showPlaying() {
    const length = Number.isFinite(audio.duration) ? audio.duration : state.playing < 0 ? 0 : data.seconds[state.playing - PHOTOS];
    const at = `${time(audio.currentTime)} of ${time(length)}`;
    $("player-time").textContent = `${time(audio.currentTime)} / ${time(length)}`;
    if (document.activeElement !== $("player-seek") || !seeking) $("player-seek").value = length ? (1000 * audio.currentTime) / length : 0;
    $("player-seek").setAttribute("aria-valuetext", at);
  }

  let seeking = false;
  for (const name of ["play", "pause", "ended", "emptied"]) {
    audio.addEventListener(name, () => {
      document.querySelectorAll("[data-track]").forEach(dressPlayButton);
      showPlaying();
      invalidate();
    });
  }
  audio.addEventListener("timeupdate", showPlaying);
  audio.addEventListener("durationchange", showPlaying);
  audio.addEventListener("error", () => {
    const type = TYPES[suffix(state.playing)] ?? "";
    if (audio.error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED && type && !audio.canPlayType(type)) {
      problem(`this browser cannot play ${suffix(state.playing).toUpperCase()} files; a music player can.`);
    } else problem("the file cannot be read: it may have been moved, or this page was, or the browser cannot play it.");
    document.querySelectorAll("[data-track]").forEach(dressPlayButton);
  });
  $("player-play").addEventListener("click", () => play(state.playing));
  $("player-track").addEventListener("click", () => select(state.playing, { show: true }));
  $("player-seek").addEventListener("pointerdown", () => { seeking = true; });
  $("player-seek").addEventListener("change", () => { seeking = false; });
  $("player-seek").addEventListener("input", () => {
    if (Number.isFinite(audio.duration)) audio.currentTime = ($("player-seek").value / 1000) * audio.duration;
  });

  /** What Space does: plays or pauses the selected track, one of the selected photo's, or else what was played last. */
  function playOrPause() {
    const i = state.selected;
    const wanted = i < 0 ? [] : isPhoto(i) ? matches(i).map(([track]) => track) : [i];
    const track = wanted.includes(state.playing) ? state.playing : wanted[0] ?? state.playing;
    if (track >= 0) play(track);
  }

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
    const size = 256;
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
    const step = clamp(clamp(apart * 0.27, 1.3, 6) * (view.scale / fitScale) ** 0.35, 1.3, 8);
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
    Object.assign(layer, { stale: false, scale: view.scale, x0: toWorldX(-margin), y0: toWorldY(-margin), x1: toWorldX(width + margin), y1: toWorldY(height + margin) });
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
      const x = clamp(wantX, half + 8, width - half - (y > height - 150 ? 60 : 8)); // the buttons are there
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
        const url = thumbnail(i);
        tip.replaceChildren(...(url ? [element("img", { src: url, alt: "" })] : []), element("b", {}, text(label(i))), text(under(i), "quiet"), text(emotion(i), "quiet"));
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
})();
