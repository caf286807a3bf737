"""How well soundtracks fit: python benchmarks/soundtrack.py --photos images.csv --music music.csv

Scenes: sequences of 20 happy, 20 sad and 20 scary photos of the split are cut; how far are the cuts from where they should be? Tracks: for
each scene one of the split's recordings is chosen; how often is its emotion that of the scene, and how often would one single track be
right? Cuts: of the first shows the music is mixed, and librosa finds its onsets; how many photos appear on one? Time: 2,000 photos and
20,000 tracks (real vectors with noise), without listening.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import librosa
import numpy as np
from experiments import CACHE, features_of

from emoclim_cli import mixing, soundtrack
from emoclim_cli.cues import CueSheet
from emoclim_cli.datasets import LabelledFeatures
from emoclim_cli.labels import read_labels
from emoclim_cli.media import MediaItem, MediaKind
from emoclim_cli.projections import DEFAULT_SPACE, EmotionSpace, load_space, unit
from emoclim_cli.rhythm import Pulse, analyse, pulse
from emoclim_cli.shots import Shots
from emoclim_cli.soundtrack import Settings, Tracks

SEQUENCE = ("happy", "sad", "scary")
EACH = 20
NEAR = 2
"""Photos: a cut so far off is right."""
ON_ONSET_S, REACH_S = 0.08, 1.4
"""A photo that appears so near to an onset is on it; where there is none so near, the music has none to offer (35 % of 4 s)."""


def show_of(vectors: np.ndarray) -> Shots:
    return Shots(tuple(map(str, range(len(vectors)))), vectors, np.zeros(len(vectors)))


def tracks_of(music: LabelledFeatures, space: EmotionSpace) -> Tracks:
    """As a library has them: the mean of a track's windows is projected."""
    features = np.stack([music.windows[a:b].mean(axis=0) for a, b in zip(music.starts, music.starts[1:], strict=False)])
    return Tracks(tuple(MediaItem(item.path, MediaKind.MUSIC, 0, 0) for item in music.items), space.project(MediaKind.MUSIC, features))


def hearing(random: bool) -> soundtrack.Hear:
    """Listens to the files, or makes tempo and energy up."""
    known: dict[str, Pulse] = {}
    rng = np.random.default_rng(0)

    def hear(items: Sequence[MediaItem], _listen: Callable[..., Any]) -> list[Any]:
        for item in items:
            if item.path not in known:
                known[item.path] = Pulse(rng.uniform(60, 180), rng.uniform(0.5, 3)) if random else pulse(item.path)
        return [known[item.path] for item in items]

    return hear


def off_onsets(sheet: CueSheet) -> tuple[np.ndarray, np.ndarray]:
    """Seconds to the nearest onset of the finished mix: (cuts,) from each photo's appearance, and (1000,) from moments at random."""
    mixed = np.concatenate(list(mixing.levelled(sheet.tracks, sheet.duration_s)), axis=1).mean(axis=0)
    onsets = librosa.onset.onset_detect(y=librosa.resample(mixed, orig_sr=mixing.RATE_HZ, target_sr=22_050), sr=22_050, units="time")
    cuts = np.array([photo.start_s for photo in sheet.photos[1:]])
    moments = np.random.default_rng(0).uniform(0, sheet.duration_s, 1000)
    off_cuts, off_moments = (np.abs(times[:, None] - onsets[None, :]).min(axis=1) for times in (cuts, moments))
    return off_cuts, off_moments


def on_onset(off_s: Sequence[float]) -> str:
    """What share is on an onset, of those that have one within reach and of all."""
    off = np.array(off_s)
    near = off[off <= REACH_S]
    return (
        f"{(near <= ON_ONSET_S).mean():.3f} of {len(near)} where the music has onsets, {(off <= ON_ONSET_S).mean():.3f} of all {len(off)}"
    )


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--music", required=True)
    parser.add_argument("--space", default=DEFAULT_SPACE)
    parser.add_argument("--split", default="val")
    parser.add_argument("--shows", type=int, default=200)
    parser.add_argument("--heard", type=int, default=20, help="shows whose music is mixed and listened to")
    options = parser.parse_args()
    space = load_space(options.space, Path(CACHE) / "spaces")
    photos = features_of(
        [item for item in read_labels(options.photos) if item.split == options.split and item.emotion in SEQUENCE],
        space.encoders[MediaKind.PHOTO],
    )
    music = features_of(
        [item for item in read_labels(options.music) if item.split == options.split and item.emotion], space.encoders[MediaKind.MUSIC]
    )
    vectors, tracks, hear = space.project(MediaKind.PHOTO, photos.windows), tracks_of(music, space), hearing(random=False)
    truth = [EACH, 2 * EACH]
    both, found, offered, right, single, counts, off, by_chance = 0, 0, 0, [], [], [], [], []
    for seed in range(options.shows):
        rng = np.random.default_rng(seed)
        order = rng.permutation(SEQUENCE)
        rows = np.concatenate([rng.choice(np.flatnonzero(photos.labels == emotion), EACH, replace=False) for emotion in order])
        shots = show_of(vectors[rows])
        settings = Settings()
        slots = soundtrack.slots_of(space, shots, settings, tracks.durations_s, by_time=False)
        cuts = [slot.first for slot in slots[1:]]
        hits = sum(any(abs(cut - true) <= NEAR for cut in cuts) for true in truth)
        found += hits
        offered += sum(any(abs(cut - true) <= NEAR for true in truth) for cut in cuts)
        both += hits == len(truth) == len(cuts)
        counts.append(len(cuts))
        chosen = soundtrack.choose(soundtrack.slot_vectors(shots, slots), slots, tracks, settings, hear)
        emotions = np.concatenate([np.full(slot.stop - slot.first, music.labels[row]) for slot, row in zip(slots, chosen, strict=True)])
        right.append(float((emotions == photos.labels[rows]).mean()))
        if seed < options.heard:
            items = [tracks.items[row] for row in chosen]
            rhythms = {item: analyse(item.path) for item in items}
            both_off = off_onsets(soundtrack.cue_sheet(space, shots, slots, items, rhythms, settings, mixing.loudness))
            for kept, more in zip((off, by_chance), both_off, strict=True):
                kept.extend(more.tolist())
        whole = unit(shots.vectors.mean(axis=0, keepdims=True))
        one = int((whole @ tracks.vectors.T)[0].argmax())
        single.append(float((music.labels[one] == photos.labels[rows]).mean()))
    n = options.shows
    print(f"{n} shows of {EACH} photos each of {', '.join(SEQUENCE)} in any order, {options.split} split, {len(tracks.items)} recordings")
    print(f"cuts both within {NEAR} photos and no other: {both / n:.3f}")
    true = offered / max(sum(counts), 1)
    print(f"true cuts found: {found / (2 * n):.3f}; cuts that are true: {true:.3f}; cuts a show: {np.mean(counts):.2f}")
    print(f"photos heard with a track of their emotion: {spread(right)}")
    print(f"with the one track that matches the whole show best: {spread(single)}; with any one track at most {1 / len(SEQUENCE):.3f}")

    print(f"photos that appear within {1000 * ON_ONSET_S:.0f} ms of an onset, {options.heard} shows: {on_onset(off)}")
    print(f"moments at random: {on_onset(by_chance)}")

    rng = np.random.default_rng(0)

    def noisy(rows: np.ndarray) -> np.ndarray:
        return unit(rows + 0.3 * rng.standard_normal(rows.shape) / np.sqrt(rows.shape[1]))

    runs = [rng.choice(np.flatnonzero(photos.labels == emotion), 40) for emotion in rng.choice(SEQUENCE, 50)]
    shots = show_of(noisy(vectors[np.concatenate(runs)]))
    items = tuple(
        MediaItem(f"{i}", MediaKind.MUSIC, 0, 0, artist=str(i % 700), duration_s=float(rng.uniform(120, 400))) for i in range(20_000)
    )
    large = Tracks(items, noisy(tracks.vectors[rng.integers(0, len(tracks.items), len(items))]))
    started = time.perf_counter()
    slots = soundtrack.slots_of(space, shots, Settings(), large.durations_s, by_time=True)
    cut = time.perf_counter()
    chosen = soundtrack.choose(soundtrack.slot_vectors(shots, slots), slots, large, Settings(), hearing(random=True))
    done = time.perf_counter()
    print(f"2,000 photos, 20,000 tracks: {len(slots)} slots in {cut - started:.2f} s, {len(set(chosen))} tracks in {done - cut:.2f} s")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
