"""Sets of noisy shots as a user would have them: clean ones, and ones with a defect that is planted."""

from collections.abc import Callable, Iterator
from pathlib import Path

import tifffile
import torch
from torch import Tensor

from engine.data.dead_leaves import dead_leaves
from engine.data.measured_scenes import measured_scene
from engine.data.registration import move
from engine.data.rng import seeded_generator

SEED = 2**50
# Samples per photon, the value of no light, and the read noise of a camera.
GAIN = 2.0
PEDESTAL = 100.0
READ_NOISE = 2.0

# From the light of a scene, (H, W) from 0 to 1, and the number of the shot to a shot.
Noise = Callable[[Tensor, torch.Generator], Tensor]


def scene(number: int, side: int = 192, photograph: bool = True) -> Tensor:
    """(side, side) from 0 to 1, as sharp as a lens makes it."""
    rng = seeded_generator(SEED, number)
    make = dead_leaves if photograph else measured_scene
    drawn = make(side, side, rng).double()[..., 0] / 255
    return (drawn + drawn.roll(1, 0) + drawn.roll(1, 1) + drawn.roll((1, 1), (0, 1))) / 4


def white(sigma: float) -> Noise:
    """White noise on the scale of 0 to 255, in whole numbers that are not clipped."""
    return lambda light, rng: (
        1000 + 255 * light + sigma * torch.randn(light.shape, generator=rng).double()
    ).round()


def photons(number: float) -> Noise:
    """Photons and read noise, in whole numbers."""

    def noisy(light: Tensor, rng: torch.Generator) -> Tensor:
        counts = torch.poisson(number * light, generator=rng)
        return (PEDESTAL + GAIN * counts + READ_NOISE * torch.randn(light.shape, generator=rng)).round()

    return noisy


def shots(light: Tensor, noise: Noise, count: int, number: int) -> list[Tensor]:
    """That many shots of one scene."""
    return [noise(light, seeded_generator(SEED + 1, 1000 * number + index)) for index in range(count)]


def moved(light: Tensor, rows: float, columns: float) -> Tensor:
    """The scene, elsewhere."""
    return move(light.unsqueeze(2), rows, columns)[..., 0].clamp(0, 1)


def write(folder: Path, name: str, frames: list[Tensor]) -> list[Path]:
    """As folder/name/frame-00.tif and so on."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    paths = [folder / name / f"frame-{index:02}.tif" for index in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        tifffile.imwrite(path, frame.clamp(0, 65535).numpy().astype("uint16"))
    return paths


def write_pairs(folder: Path, scenes: int) -> Path:
    """That many scenes of two shots with white noise."""
    for number in range(scenes):
        write(folder, f"scene-{number}", shots(scene(number, 96), white(25), 2, number))
    return folder


def clean_sets() -> Iterator[tuple[str, Callable[[int], Tensor], Noise, int]]:
    """Kinds of sets without a defect: a name, what makes a scene, its noise, and shots of a scene."""
    for count in (2, 5):
        for sigma in (5, 25, 60):
            yield f"white {sigma}, {count} shots", scene, white(sigma), count
        for number in (20, 200):
            yield f"photons {number}, {count} shots", _measured, photons(number), count


def _measured(number: int, side: int = 192) -> Tensor:
    return scene(number, side, photograph=False)
