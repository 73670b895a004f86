"""Gain of adapted weights on images that adaptation has not seen, against their truth.

    python -m tests.bench.adaptation fluorescence FOLDER --steps 4000
    python -m tests.bench.adaptation single FOLDER --steps 4000
    python -m tests.bench.adaptation bursts FOLDER --steps 2000
    python -m tests.bench.adaptation photographs FOLDER --steps 2000 --noise camera

`fluorescence` and `single` take a folder of NAME_CHANNEL_noisy.tif and NAME_CHANNEL_avg400.tif; the second shots
of `fluorescence` are drawn by the measured noise law, and `single` sees one shot of each. Of three folds over the
names, --fold chooses one. `bursts` takes folders with frame-*.tif and truth.tif; it learns from 2 frames of each.
`photographs` takes clean images, and draws two noisy shots of each. The gain is that over the noisy image, in dB,
after gain and offset of the truth are fitted; the mean over images.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

import engine
from engine.adaptation import AdaptProgress, adapt

FOLDS = 3
FRAMES = 2
SHIPPED = ("auto", "photo", "photo-gaussian", "photo-grey")
SIGMA = 25.0
CROP = 320
# Standard deviations of the blur of brightness noise and of colour noise, in pixels: of usual cameras, and of one
# that smooths its noise to coarse grain.
BLURS = {"camera": (0.7, 1.6), "coarse": (1.6, 4.0)}

Pixels = NDArray[np.generic]


class Unseen(NamedTuple):
    """An image for the judge."""

    name: str
    noisy: Pixels
    truth: NDArray[np.float64]


def gain(image: Unseen, denoised: Pixels) -> float:
    """Over the noisy image, in dB."""
    x, noisy = image.truth.ravel(), image.noisy.ravel().astype(float)
    (slope, offset), *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), noisy, rcond=None)
    truth = slope * image.truth + offset
    errors = [float(np.square(each.astype(float) - truth).mean()) for each in (image.noisy, denoised)]
    return 10 * float(np.log10(errors[0] / errors[1]))


def fluorescence(source: Path, folder: Path, fold: int, single: bool) -> list[Unseen]:
    """Fields of one fold are unseen; the shots of the others go to the folder."""
    fields = sorted({path.name.split("_")[0] for path in source.glob("*_noisy.tif")})
    unseen = []
    for path in sorted(source.glob("*_noisy.tif")):
        mean = path.with_name(path.name.replace("_noisy", "_avg400"))
        if fields.index(path.name.split("_")[0]) % FOLDS == fold:
            unseen.append(Unseen(path.stem, tifffile.imread(path), tifffile.imread(mean).astype(float)))
            continue
        for each in (path,) if single else (path, mean):
            shutil.copy(each, folder)
    return unseen


def bursts(source: Path, folder: Path, fold: int) -> list[Unseen]:
    """A third of the scenes is unseen; 2 frames of the others go to the folder."""
    unseen = []
    for number, scene in enumerate(sorted(path.parent for path in source.glob("*/truth.tif"))):
        frames = sorted(scene.glob("frame-*.tif"))
        if number % FOLDS == fold:
            truth = tifffile.imread(scene / "truth.tif").astype(float)
            unseen.append(Unseen(scene.name, tifffile.imread(frames[0]), truth))
            continue
        (folder / scene.name).mkdir()
        for each in frames[:FRAMES]:
            shutil.copy(each, folder / scene.name)
    return unseen


def photographs(source: Path, folder: Path, fold: int, noise: str) -> list[Unseen]:
    """A third of the photographs is unseen; two noisy shots of the others go to the folder."""
    unseen = []
    for number, path in enumerate(sorted(each for each in source.iterdir() if each.suffix.lower() != ".tsv")):
        clean = engine.read_image(path)
        top, left = ((size - min(size, CROP)) // 2 for size in clean.shape[:2])
        clean = clean[top : top + CROP, left : left + CROP]
        shots = noisy_shots(clean, noise, number)
        if number % FOLDS == fold:
            unseen.append(Unseen(path.stem, shots[0], clean.astype(float)))
            continue
        for index, each in enumerate(shots):
            engine.write_image(folder / f"{path.stem}_{index + 1}.png", each)
    return unseen


def noisy_shots(clean: Pixels, noise: str, number: int) -> list[Pixels]:
    """Two shots of 8 bits: white noise, or that of one simulated camera's JPEG files."""
    rng = np.random.default_rng([number, 5])
    made: list[Pixels] = []
    for _ in range(FRAMES):
        grain = rng.normal(0, 1, clean.shape)
        if noise in BLURS:
            made.append(camera_shot(clean, grain, *BLURS[noise]))
        else:
            made.append(np.clip(np.rint(clean + SIGMA * grain), 0, 255).astype(np.uint8))
    return made


def camera_shot(clean: Pixels, grain: NDArray[np.float64], luma_blur: float, chroma_blur: float) -> Pixels:
    """Noise that grows with brightness and is blurred, more in colour than in brightness, through JPEG."""
    import io

    from PIL import Image
    from scipy.ndimage import gaussian_filter

    luma = grain @ np.array([0.299, 0.587, 0.114])
    chroma = grain - luma[..., None]
    luma = gaussian_filter(luma, luma_blur)
    chroma = np.stack([gaussian_filter(chroma[..., channel], chroma_blur) for channel in range(3)], 2)
    level = np.sqrt(clean / 255 * 12**2 + 3**2)
    # A blur by s leaves 1 / (2 s sqrt(pi)) of the standard deviation.
    shot = clean + level * (2.9 * luma_blur * luma[..., None] + 1.6 * chroma_blur * chroma)
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(shot), 0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return np.asarray(Image.open(file))


def table(unseen: Sequence[Unseen], models: Sequence[str | Path]) -> list[tuple[str, list[float]]]:
    """Of each model, the gain on each image."""
    rows = []
    for name in models:
        model = engine.load_model(name)
        rows.append((str(name), [gain(each, engine.denoise(each.noisy, model)) for each in unseen]))
    return rows


def show(progress: AdaptProgress) -> None:
    """One line for each look."""
    if progress.look:
        point = progress.look.point
        print(f"  {point.minutes:6.1f} min, step {point.step}: {point.gain}", flush=True)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.adaptation", description=__doc__)
    parser.add_argument("case", choices=["fluorescence", "single", "bursts", "photographs"])
    parser.add_argument("source", type=Path)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--start", default="auto")
    parser.add_argument("--noise", choices=["white", *BLURS], default="camera")
    parser.add_argument("--out", type=Path, help="keep the weights")
    return parser.parse_args()


def main() -> None:
    """As in the module's docstring."""
    given = arguments()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "shots"
        folder.mkdir()
        match given.case:
            case "bursts":
                unseen = bursts(given.source, folder, given.fold)
            case "photographs":
                unseen = photographs(given.source, folder, given.fold, given.noise)
            case _:
                unseen = fluorescence(given.source, folder, given.fold, given.case == "single")
        out = given.out or Path(place) / "own.safetensors"
        torch.manual_seed(0)
        result = adapt(folder, out, given.minutes, start=given.start, steps=given.steps, on_progress=show)
        print(f"start {result.start}; estimated: {result.verdict.before} -> {result.verdict.after}")
        print(
            f"improvement {result.verdict.improvement}; {'passed' if result.passed else result.verdict.reasons}"
        )
        rows = table(unseen, [*SHIPPED, result.weights])
        for name, gains in rows:
            print(f"{Path(name).stem:>16} {np.mean(gains):6.2f} dB, worst {min(gains):6.2f}, {len(gains)} images")
        worst = min(after - before for before, after in zip(rows[0][1], rows[-1][1], strict=True))
        print(f"adapted over auto, worst image: {worst:+.2f} dB")


if __name__ == "__main__":
    main()
