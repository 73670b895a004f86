"""Held-out scenes: drawn by chance, and used to judge networks without a clean image."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adaptation.doctor.planes import box_mean, grey
from engine.adaptation.normalise import ScenesNormalisation
from engine.adaptation.pairs import MIN_SHIFT
from engine.adaptation.quality import SceneError, scene_error
from engine.adaptation.result import DenoisedShot
from engine.adaptation.shots import SceneShots
from engine.data.noise.anscombe import NoiseLaw
from engine.data.registration import BORDER, move
from engine.data.rng import seeded_generator
from engine.imageio.image import Image
from engine.inference.denoise import denoise
from engine.inference.noise_estimation.value_range import range_of
from engine.inference.normalisation import Normalisation
from engine.inference.preparation import Preparation
from engine.layers import Module

# Share of the scenes that is held out, and the least numbers: an interval over scenes needs two, and is so wide
# with two that hardly anything is certain: 13 standard errors, with four 3. Fewer are held out of few scenes.
SHARE = 0.3
MIN_HELD_OUT = 2
USUAL_HELD_OUT = 4
# Groups of scenes with like names from which on these stay together.
MIN_GROUPS = 6
_LAST_NUMBER = re.compile(r"\d+(?=\D*$)")
# Shots of a scene that are judged, and the side of their middle, in pixels.
SHOTS = 3
SIDE = 1024


@dataclass(frozen=True)
class JudgedScene:
    """Shots of a scene that lie on each other, float32 (H, W, C) in the file's units. usable: bool (H, W).

    shifts: pixels down and right by which the content of each lies from that of the first, half a pixel at most.
    """

    name: str
    shots: tuple[Tensor, ...]
    usable: Tensor
    normalisation: Normalisation
    has_law: bool
    shifts: tuple[tuple[float, float], ...]

    @property
    def moves(self) -> bool:
        """Whether some shots lie a part of a pixel from the first."""
        return any(math.hypot(*shift) >= MIN_SHIFT for shift in self.shifts)

    def middle(self, side: int, shots: int) -> "JudgedScene":
        """A part of it: fewer shots, and their middle."""
        return JudgedScene(
            self.name,
            tuple(_middle(shot, side) for shot in self.shots[:shots]),
            _middle(self.usable, side),
            self.normalisation,
            self.has_law,
            self.shifts[:shots],
        )

    def denoised(self, net: Module) -> list[Tensor]:
        """Each shot, denoised as serving does it."""
        steps = Preparation(normalisation=self.normalisation, keep_mean=self.has_law)
        return [denoise(net, Image(shot), preparation=steps).samples for shot in self.shots]


def draw_held_out(scenes: Sequence[SceneShots], seed: int) -> tuple[list[SceneShots], list[SceneShots]]:
    """The scenes to learn from, and those to judge by, which chance decides.

    Scenes with several shots are held out before single shots, which say less. Scenes whose names differ in the
    last number alone may show the same thing, as the channels of a field do: they stay on one side, if there are
    enough groups of them. Raises ValueError for too few.
    """
    usual = min(USUAL_HELD_OUT, len(scenes) // 2)
    count = max(MIN_HELD_OUT, usual, round(SHARE * len(scenes)))
    if len(scenes) <= count:
        raise ValueError(
            f"There are {len(scenes)} scenes to learn from, and {count} are held out to judge the result. "
            f"Record at least {count + 1} scenes, better 6 or more."
        )
    order = torch.randperm(len(scenes), generator=seeded_generator(seed, 3)).tolist()
    order.sort(key=lambda index: scenes[index].use == "single")
    groups = _groups([scene.name for scene in scenes])
    chosen: set[int] = set()
    for index in order:
        if len(chosen) < count:
            chosen.update(each for each, group in enumerate(groups) if group == groups[index])
    return (
        [scene for index, scene in enumerate(scenes) if index not in chosen],
        [scene for index, scene in enumerate(scenes) if index in chosen],
    )


def _groups(names: Sequence[str]) -> list[str]:
    """For each scene, the name of its group; one of its own if there are few groups."""
    groups = [_LAST_NUMBER.sub("", name) for name in names]
    return groups if len(set(groups)) >= MIN_GROUPS else [str(number) for number in range(len(names))]


def judged(scene: SceneShots) -> JudgedScene:
    """What a scene is judged by: up to three shots, or the two halves of a single one."""
    if scene.use == "single":
        return _halves(scene)
    lag = 1 if scene.use == "drawn" else scene.lag
    chosen = range(0, len(scene.shots), lag)[:SHOTS]
    if len(chosen) < 2:
        chosen = range(0, len(scene.shots), len(scene.shots) - 1)
    places = [scene.shifts[index] for index in chosen]
    moves = [(down - places[0][0], right - places[0][1]) for down, right in places]
    shifts = [(round(down), round(right)) for down, right in moves]
    remaining = tuple((down - round(down), right - round(right)) for down, right in moves)
    height, width = scene.size
    ends = [(min(each), max(each)) for each in zip(*shifts, strict=True)]
    rows, columns = (size - (high - low) for size, (low, high) in zip((height, width), ends, strict=True))
    parts = [
        (
            slice(down - ends[0][0], down - ends[0][0] + rows),
            slice(right - ends[1][0], right - ends[1][0] + columns),
        )
        for down, right in shifts
    ]
    shots = [scene.shots[index][part].contiguous() for index, part in zip(chosen, parts, strict=True)]
    usable = torch.stack([scene.usable[index][part] for index, part in zip(chosen, parts, strict=True)]).all(0)
    whole = JudgedScene(scene.name, tuple(shots), usable, scene.normalisation, bool(scene.laws), remaining)
    return whole.middle(SIDE, SHOTS)


def _halves(scene: SceneShots) -> JudgedScene:
    """Two images of half the size, each the mean of two diagonal neighbours of every 2 x 2 cell.

    Both have the same centre, so they show the same scene up to its second derivatives, and their noise is
    independent. It has half the variance of the shot's.
    """
    shot, usable = scene.shots[0], scene.usable[0]
    height, width = (size // 2 * 2 for size in scene.size)
    a, b, c, d = (shot[row:height:2, column:width:2] for row in (0, 1) for column in (0, 1))
    halves = ((a + d) / 2, (b + c) / 2)
    both = torch.stack([usable[row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)]).all(0)
    laws = tuple(NoiseLaw(law.gain / 2, law.pedestal, law.read_variance / 2) for law in scene.laws)
    normalisation = ScenesNormalisation(laws).of(halves[0]) if laws else scene.normalisation
    whole = JudgedScene(scene.name, halves, both, normalisation, bool(laws), ((0.0, 0.0),) * 2)
    return whole.middle(SIDE, SHOTS)


def words(scenes: Sequence[SceneShots]) -> str:
    """How the error is estimated, for people."""
    singles = sum(scene.use == "single" for scene in scenes)
    drawn = sum(scene.use == "drawn" for scene in scenes)
    parts = []
    if several := len(scenes) - singles - drawn:
        parts.append(f"{several} by further noisy shots of the same scene")
    if drawn:
        parts.append(f"{drawn} by shots that were drawn from the mean of many by the measured noise law")
    if singles:
        parts.append(
            f"{singles} by the two halves of a single shot, at half the resolution and half the variance: "
            "the gain at full resolution cannot be known from single shots"
        )
    return "; ".join(parts)


def brightness_range(scenes: Sequence[JudgedScene]) -> tuple[float, float]:
    """Between which values the scenes lie, without their noise."""
    ends = [range_of(box_mean(grey(torch.stack(scene.shots).mean(0)), 2)) for scene in scenes]
    return min(low for low, _ in ends), max(high for _, high in ends)


def errors(
    scenes: Sequence[JudgedScene], outputs: Sequence[Sequence[Sequence[Tensor]]], limits: tuple[float, float]
) -> list[SceneError]:
    """The errors of each scene. outputs: of each denoiser, the denoised shots of each scene."""
    return [
        scene_error(*_at_one_place(scene, of_scene), limits, usable=_usable(scene))
        for scene, of_scene in zip(scenes, zip(*outputs, strict=True), strict=True)
    ]


def _at_one_place(
    scene: JudgedScene, outputs: Sequence[Sequence[Tensor]]
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The shots and the outputs, as if no shot lay a part of a pixel from the first.

    Outputs are moved. A shot gains the difference that moving makes to its output, and keeps its noise as it is.
    """
    if not scene.moves:
        return list(scene.shots), [list(images) for images in outputs]
    placed = [
        [move(image, -down, -right) for image, (down, right) in zip(images, scene.shifts, strict=True)]
        for images in outputs
    ]
    shots = [shot - own + there for shot, own, there in zip(scene.shots, outputs[0], placed[0], strict=True)]
    return shots, placed


def _usable(scene: JudgedScene) -> Tensor:
    """Without the borders, over which unknown pixels move in."""
    if not scene.moves:
        return scene.usable
    inside = torch.zeros_like(scene.usable)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    return scene.usable & inside


def denoised_shot(scene: JudgedScene, before: Sequence[Tensor], after: Sequence[Tensor]) -> DenoisedShot:
    """The first shot, for the report. before, after: all shots, by the weights in service and by the adapted."""
    laws = tuple(each.law for each in scene.normalisation.transforms)
    other = None if scene.moves else scene.shots[1]
    return DenoisedShot(scene.name, scene.shots[0], after[0], before[0], ~scene.usable, laws, other)


def _middle(image: Tensor, side: int) -> Tensor:
    for axis in (0, 1):
        size = image.shape[axis]
        image = image.narrow(axis, max(0, (size - side) // 2), min(size, side))
    return image.contiguous()
