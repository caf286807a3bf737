/* The side panel: the selected item and what goes with it, what is in view as text, and the player. */

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
