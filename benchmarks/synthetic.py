"""A synthetic challenge folder of any size, in the challengedata edition, for measurements at the real size.

`python benchmarks/synthetic.py OUT --rows 84916 --test-rows 13812 --seed 0` (the real data's sizes; the same arguments
produce the same bytes with the same versions of numpy and Pillow). Nothing in it comes from the real catalogue except
published statistics:

- 27 class codes in the real shares, two items of each at least
- descriptions missing in 35 % of the rows, in hardly any of some classes and in most of others
- titles of 5 to 15 words; title and description have a few dozen words in the median, up to about 2,000
- tags and entities in descriptions, mojibake in 2 %, a `?` in mid-word in 3 % of them
- 4 % of the images have a byte-identical duplicate and 6 % more a re-saved one; 5 % of the texts have a duplicate;
  duplicates are nearly always of one class, and may be one in the training and one in the test part
- 500×500 JPEG of about 23 KB (2.3 GB in all), 91 % with a white frame, 28 in 84,916 blank
- image and product ids of about ten digits

Our guesses, to make classes learnable but not trivially so: words are made of French syllables, most from one Zipf-like
list; three in ten of a title and one in ten of a description are from the 300 words of its class, half of which classes
share in pairs. An image has the colours and shapes of its class, or in three of ten cases of any class.
"""

import argparse
import os
import random
import sys
import tempfile
from contextlib import nullcontext
from functools import cache
from html.entities import codepoint2name
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy.optimize import brentq
from tqdm.auto import tqdm

from kit.core.exceptions import KitError
from kit.core.paths import resolve

COUNTS = {
    10: 3116, 40: 2508, 50: 1681, 60: 832, 1140: 2671, 1160: 3953, 1180: 764, 1280: 4870, 1281: 2070,
    1300: 5045, 1301: 807, 1302: 2491, 1320: 3241, 1560: 5073, 1920: 4303, 1940: 803, 2060: 4993, 2220: 824,
    2280: 4760, 2403: 4774, 2462: 1421, 2522: 4989, 2582: 2589, 2583: 10209, 2585: 2496, 2705: 2761, 2905: 872,
}  # fmt: skip
MISSING = 0.3509
SIDE = 500
FREQUENT = "de la le et pour en avec les à un une des du l'eau sur dans d'une x - noir blanc 2 3 cm 10 c'est été"
HEADS, HEARTS = "b c ch d f fr g gr j l m n p pl qu r s t tr v", "a e i o u é è ou on an in eau oi ai"
TAILS = "r s t ge lle tte que ment tion é ée"
ENTITIES = {code: f"&{name};" for code, name in codepoint2name.items() if code > 127} | {ord("'"): "&#39;"}


def write_synthetic(out: Path, rows: int, test_rows: int, seed: int = 0, workers: int = 1) -> None:
    """Write the folder `out`, whole or not at all. Raise KitError if it exists or there are too few rows."""
    if out.exists():
        raise KitError(f"{out} exists already: name a folder that does not, or remove it first.")
    if rows < 4 or test_rows < 1:
        raise KitError(f"{rows} training and {test_rows} test rows are too few: two classes need 4, and the test 1.")
    rng = np.random.default_rng(seed)
    labels = draw_labels(rng, rows, test_rows)
    frame = draw_texts(rng, labels)
    for column, low, high in (("productid", 100_000, 4_300_000_000), ("imageid", 600_000_000, 1_350_000_000)):
        frame[column] = rng.choice(high - low, len(frame), replace=False) + low
    source, quality = draw_duplicates(rng, labels)
    look = np.searchsorted(list(COUNTS), np.where(rng.random(len(labels)) < 0.3, rng.permutation(labels), labels))
    look[rng.choice(len(look), round(len(look) * 28 / 84_916), replace=False)] = -1  # blank
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        parts = {"train": frame[:rows], "test": frame[rows:]}
        names = []
        for part, items in parts.items():
            (folder / "images" / f"image_{part}").mkdir(parents=True)
            items.to_csv(folder / f"X_{part}_update.csv")
            keys = zip(items["imageid"], items["productid"], strict=True)
            names += [folder / "images" / f"image_{part}" / f"image_{i}_product_{p}.jpg" for i, p in keys]
        pd.DataFrame({"prdtypecode": labels[:rows]}).to_csv(folder / "Y_train_CVw08PX.csv")
        tasks = zip(names, [f"{seed} {i}" for i in source], look[source].tolist(), quality.tolist(), strict=True)
        with Pool(workers) if workers > 1 else nullcontext() as pool:
            saved = pool.imap_unordered(save_image, tasks, 64) if pool else map(save_image, tasks)
            for _ in tqdm(saved, total=len(names), unit="image", leave=False):
                pass
        os.rename(folder, out)


def draw_labels(rng: np.random.Generator, rows: int, test_rows: int) -> np.ndarray:
    """Return codes `[rows + test_rows]`; the first `rows` have the real shares, of the largest classes if few rows."""
    known = sorted(sorted(COUNTS, key=COUNTS.get)[-(rows // 2) :])
    share = np.array([COUNTS[code] for code in known])
    share = share / share.sum()
    counts = np.maximum(2, np.floor(share * rows)).astype(int)
    while gap := rows - counts.sum():
        surplus = counts - share * rows
        if gap > 0:
            counts[surplus.argmin()] += 1
        else:
            counts[np.where(counts > 2, surplus, -np.inf).argmax()] -= 1
    return np.concatenate([rng.permutation(np.repeat(known, counts)), rng.choice(known, test_rows, p=share)])


def draw_pairs(rng: np.random.Generator, labels: np.ndarray, *shares: float) -> list[np.ndarray]:
    """Return disjoint pairs `[n, 2]` of items, nearly all of one class: for each share, that share of all items."""
    order = np.lexsort([rng.random(len(labels)), labels])
    pairs = rng.permutation(order[: len(order) // 2 * 2].reshape(-1, 2))
    ends = np.cumsum([max(1, round(share * len(labels) / 2)) for share in shares])
    return np.split(pairs, ends)[: len(shares)]


def draw_duplicates(rng: np.random.Generator, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each item the one whose image it shows, and the JPEG quality."""
    source, quality = np.arange(len(labels)), rng.integers(84, 93, len(labels))
    same, near = draw_pairs(rng, labels, 0.04, 0.06)
    for kept, copied in (same.T, near.T):
        source[copied] = kept
        quality[copied] = quality[kept]
    quality[near[:, 1]] -= 12
    return source, quality


# ---------------------------------------------------------------- text


def draw_words(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return different words: the frequent ones of shops first, then made-up ones that sound French."""
    heads, hearts, tails = HEADS.split(), HEARTS.split(), ["", *TAILS.split()]
    words, pick = dict.fromkeys(FREQUENT.split()), random.Random(rng.bytes(8))
    while len(words) < count:
        syllables = [pick.choice(heads) + pick.choice(hearts) for _ in range(pick.randint(1, 3))]
        words["".join(syllables) + pick.choice(tails)] = None
    return np.array(list(words), dtype=object)


def zipf(rng: np.random.Generator, ranks: int, size: int, exponent: float = 1.0) -> np.ndarray:
    """Return `size` ranks from 0, drawn in proportion to 1 / (rank + 2) ** exponent."""
    weights = np.cumsum(1 / np.arange(2, ranks + 2) ** exponent)
    return np.searchsorted(weights, rng.random(size) * weights[-1])


def draw_texts(rng: np.random.Generator, labels: np.ndarray) -> pd.DataFrame:
    """Return each item's designation and description, "" if it is missing."""
    titles = rng.integers(5, 16, len(labels))
    lengths = np.clip(rng.lognormal(np.log(55), 1.0, len(labels)), 2, 2000).astype(int)
    lengths[draw_missing(rng, labels)] = 0
    words = draw_words(rng, 20_000)
    codes = sorted(set(labels))
    topics = np.array([rng.permutation(np.arange(50, 6000))[:300] for _ in codes])
    topics[1::2, ::2] = topics[: len(codes) // 2 * 2 : 2, ::2]  # every other class shares half with the one before
    sizes = np.column_stack([titles, lengths]).ravel()  # titles and descriptions in turn
    position = np.repeat(np.repeat(np.searchsorted(codes, labels), 2), sizes)
    drawn = zipf(rng, len(words), len(position))
    topical = rng.random(len(position)) < np.repeat(np.tile([0.3, 0.1], len(labels)), sizes)
    drawn[topical] = topics[position[topical], zipf(rng, 300, topical.sum(), 0.8)]
    drawn, ends = words[drawn].tolist(), np.cumsum(sizes).reshape(-1, 2)
    texts = [
        (" ".join(drawn[middle - title : middle]).capitalize(), mark_up(rng, drawn[middle:end]))
        for title, (middle, end) in zip(titles, ends, strict=True)
    ]
    (pairs,) = draw_pairs(rng, labels, 0.05)
    for kept, copied in pairs:
        texts[copied] = texts[kept]
    return pd.DataFrame(texts, columns=["designation", "description"])


def draw_missing(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Return a mask `[N]` of the items without a description: 35 % of all, and a different share in each class."""
    codes, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
    base = rng.permutation(np.linspace(0.03, 0.97, len(codes)))
    power = brentq(lambda p: np.average(base**p, weights=counts) - MISSING, 0.1, 10)
    return rng.random(len(labels)) < (base**power)[position]


def mark_up(rng: np.random.Generator, words: list[str]) -> str:
    """Return a description as shops write them: lines between tags, entities, and the damage of a wrong decoding."""
    if not words:
        return ""
    lines = [" ".join(words[i : i + 12]).capitalize() for i in range(0, len(words), 12)]
    style, damage = rng.random(2)
    if damage < 0.02:
        lines = [line.encode().decode("cp1252", "replace") for line in lines]
    elif damage < 0.05:
        lines = [line.replace("é", "?") for line in lines]
    elif damage < 0.35:
        lines = [line.translate(ENTITIES) for line in lines]
    if style < 0.4:
        return ". ".join(lines)
    if style < 0.7:
        return "<br />".join(lines)
    if style < 0.85:
        return "".join(f"<p>{line}.</p>" for line in lines)
    return f"<b>{lines[0]}</b><ul>" + "".join(f"<li>{line}</li>" for line in lines[1:]) + "</ul>"


# ---------------------------------------------------------------- images


@cache
def textures() -> list[Image.Image]:
    """Return grey noise of 1000 × 1000 pixels, weaker to stronger, which makes the files as large as real ones."""
    rng, drawn = np.random.default_rng(0), []
    for strength in (4, 8, 12, 18, 26, 36):
        total = np.full((1000, 1000), 60.0)
        for cells, weight in ((5, 4), (25, 2), (125, 1), (500, 1)):
            noise = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
            total += strength * weight / 4 * np.asarray(noise.resize((1000, 1000), Image.Resampling.BICUBIC))
        drawn.append(Image.fromarray(total.clip(0, 255).astype(np.uint8)))
    return drawn


def draw_image(rng: random.Random, look: int) -> Image.Image:
    """Draw shapes on a ground in the colours of class number `look`, under noise; all white if it is -1."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    if look < 0:
        return image
    width, height = (SIDE, SIDE) if rng.random() < 0.09 else (rng.randint(230, 490), rng.randint(230, 490))
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    box = (left, top, left + width, top + height)
    draw = ImageDraw.Draw(image)
    hue = 360 * look / len(COUNTS)
    draw.rectangle(box, _colour(rng, hue))
    for _ in range(rng.randint(3, 8)):
        (x, right), (y, bottom) = (sorted(rng.sample(range(*ends), 2)) for ends in (box[::2], box[1::2]))
        colour = _colour(rng, hue + 60 + 120 * (look % 3))
        kind = look % 4 if rng.random() < 0.7 else rng.randrange(4)
        if kind == 0:
            draw.rectangle((x, y, right, bottom), colour)
        elif kind == 1:
            draw.ellipse((x, y, right, bottom), colour)
        elif kind == 2:
            draw.polygon([(x, bottom), (right, bottom), (rng.randint(x, right), y)], colour)
        else:
            draw.line([(x, y), (right, bottom)], colour, rng.randint(8, 40))
    corner = rng.randint(0, 1000 - width), rng.randint(0, 1000 - height)
    noise = rng.choice(textures()).crop((*corner, corner[0] + width, corner[1] + height))
    image.paste(rng.choice(("black", "white")), box, noise)
    return image


def _colour(rng: random.Random, hue: float) -> str:
    return f"hsl({(hue + rng.gauss(0, 15)) % 360:.0f},{rng.randint(30, 90)}%,{rng.randint(25, 75)}%)"


def save_image(task: tuple[Path, str, int, int]) -> None:
    """Save the image of `task`: path, seed of the drawing, number of the class, JPEG quality. Equal ones yield equal
    bytes."""
    path, key, look, quality = task
    draw_image(random.Random(key), look).save(path, quality=quality)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=resolve, help="the folder to make")
    parser.add_argument("--rows", type=int, default=84_916, help="training items")
    parser.add_argument("--test-rows", type=int, default=13_812, help="test items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    try:
        write_synthetic(**vars(parser.parse_args()))
    except (KitError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
