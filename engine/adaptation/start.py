"""Start of an adaptation: the weights in service that suit the noise best, and the recipe for their network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.adaptation.held_out import JudgedScene, brightness_range, errors
from engine.adaptation.quality import gain
from engine.models import checkpoint
from engine.models.autoencoder import AutoencoderConfig
from engine.models.checkpoint import Model
from engine.models.networks import NetworkConfig, kind_of
from engine.training.recipe import Recipe

# Shipped weights that may be the start, for grey and for colour.
CANDIDATES = {1: ("photo-grey", "photo-gaussian", "photo"), 3: ("photo-gaussian", "photo")}
# Scenes that choose the start, and the side of their middle, in pixels.
TRIALS = 3
TRIAL_SIDE = 256
# Patches of a batch, and the largest and the smallest side of a patch, in pixels.
BATCH = 8
PATCH = 128
MIN_PATCH = 16


@dataclass(frozen=True)
class Start:
    """Weights. name: as `denoise run --model` takes it."""

    name: str
    model: Model


def choose_start(name: str, scenes: Sequence[JudgedScene], channels: int) -> tuple[Start, Start]:
    """The weights to begin from, and those in service: the shipped ones that denoise some of the scenes best.

    name: of the weights to begin from, or "auto" for those in service. Named weights that denoise these scenes
    better than the shipped ones are also those in service, since who adapts again compares with the last time.
    scenes: to learn from, not those that are held out. Raises ValueError for weights that cannot be used.
    """
    named = [] if name == "auto" else [_load(name)]
    trials = [scene.middle(TRIAL_SIDE, 2) for scene in scenes[:TRIALS]]
    limits = brightness_range(trials)
    candidates = named + [_load(each) for each in CANDIDATES[channels]]
    outputs = [[scene.denoised(each.model.net) for scene in trials] for each in candidates]
    found = errors(trials, outputs, limits)
    best = candidates[max(range(len(candidates)), key=lambda number: gain(found, number).value)]
    return (named[0] if named else best), best


def has_no_biases(name: str) -> bool:
    """Whether the weights to begin from do the same to a scaled image. name: as for `choose_start`."""
    return name == "auto" or not isinstance(_load(name).model.config, AutoencoderConfig)


def _load(name: str) -> Start:
    return Start(name, checkpoint.load(checkpoint.find(name)))


def recipe_for(config: NetworkConfig, side: int, minutes: float, steps: int, seed: int, stride: int) -> Recipe:
    """How to train a network of this kind and size. side: of the smallest scene, in pixels.

    Raises ValueError if that is too small for a patch.
    """
    patch = min(PATCH, side // stride * stride)
    if patch < max(MIN_PATCH, stride):
        raise ValueError(f"The smallest shot has {side} pixels a side. Record shots of 64 x 64 pixels or more.")
    size: dict[str, Any] = (
        {"hidden": config.hidden, "geometry": config.geometry}
        if isinstance(config, AutoencoderConfig)
        else {"channels": config.channels, "blocks": config.blocks}
    )
    values: dict[str, Any] = {
        "network": kind_of(config),
        # Only for the purpose in the metadata: the noise is that of the shots.
        "noise": "gaussian",
        "noise_range": (0.0, 55.0),
        "optimizer": "muon",
        "lr": 0.002,
        "adam_lr": 0.0003,
        "weight_decay": 0.1,
        "batch": BATCH,
        "patch": patch,
        "minutes": minutes,
        "steps": steps,
        "warmup": 30,
        "decay": 0.7,
        "average": 0.995,
        "clip": 1.0,
        "seed": seed,
    }
    return Recipe(**values, **size)


def refused_path(out: Path) -> Path:
    """Where weights are kept that may not be published."""
    return out.with_name(f"{out.stem}.refused{checkpoint.SUFFIX}")
