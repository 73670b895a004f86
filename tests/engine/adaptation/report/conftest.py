"""An adaptation as the report takes it, with numbers that are chosen."""

from pathlib import Path

import pytest
import torch

from engine.adaptation.doctor.correlation import LagCorrelation, SpatialCorrelation
from engine.adaptation.doctor.findings import Finding
from engine.adaptation.doctor.scene_check import SceneCheck, ShotCheck
from engine.adaptation.examine import Examination
from engine.adaptation.gate import judge
from engine.adaptation.quality import Estimate, SceneError
from engine.adaptation.result import Adaptation, CurvePoint, DenoisedShot
from engine.adaptation.scenes import LeftOut, Scene, Shot
from engine.data.noise.anscombe import NoiseLaw
from engine.inference.noise_estimation.noise_law import Interval, LawEstimate, LawPoint
from tests.support.pixels import generator

LAW = NoiseLaw(2.0, 100.0, 16.0)


@pytest.fixture
def law():
    points = [LawPoint(x, (2 * (x - 100) + 16) ** 0.5, 0.3) for x in (120.0, 300.0, 700.0, 1200.0)]
    return LawEstimate(
        LAW, Interval(1.9, 2.1), Interval(3.0, 5.0), Interval(90.0, float("inf")), 6.2, (False, True),
        tuple(points), True,
    )  # fmt: skip


def _check(folder, number, law, kind="pair"):
    name = f"cell {number}"
    shots = tuple(Shot(folder / f"{name}_{n}.tif") for n in (1, 2))
    return SceneCheck(
        Scene(name, kind, shots, (640, 480), 1),
        tuple(ShotCheck(shot) for shot in shots),
        torch.zeros(480, 640, dtype=torch.float64),
        noise=12.345,
        correlation=SpatialCorrelation(0.0123, (0, 1), 0.004),
        lag=LagCorrelation((0.62, 0.31, 0.04), 3, 0.005) if number == 1 else None,
        laws=(law,),
        digests=(bytes([number, 1]) * 16, bytes([number, 2]) * 16),
    )


@pytest.fixture
def examination(law):
    folder = Path("/data/microscope")
    findings = (
        Finding("cell 1_2.tif", "shift", "corrected", "lies +0.31 pixels down", 0.3123, 0.004),
        Finding("microscope", "too little", "missing", "3 scenes; record about 3 more", 3.0),
    )
    left_out = (LeftOut(folder / "notes.txt", "not an image, by its suffix"),)
    return Examination(folder, tuple(_check(folder, n, law) for n in range(1, 4)), findings, left_out)


@pytest.fixture
def errors():
    def scene(factor):
        parts = ((12.0, 10.0, 11.0), (4.0, 5.0, 6.0))
        denoised = tuple(tuple(factor * each for each in part) for part in parts)
        return SceneError((100.0, 200.0, 300.0), denoised, (0.5, 0.495, 0.005), (0.02, -0.03))

    return tuple(scene(factor) for factor in (0.9, 1.0, 1.2))


@pytest.fixture
def adaptation(examination, law, errors):
    curve = tuple(
        CurvePoint(minutes, int(100 * minutes), Estimate(12 + minutes**0.5, 11.5, 16.0)) for minutes in range(6)
    )
    return Adaptation(
        folder=examination.folder,
        examination=examination,
        laws=(law,),
        held_out=("cell 1", "cell 2", "cell 3"),
        errors=errors,
        judged_by="Two shots judge each other, in both directions.",
        verdict=judge(errors, (0.0, 1000.0)),
        curve=curve,
        weights=Path("weights/mine.safetensors"),
        digest="ab" * 32,
        start="photo-grey",
        start_digest="cd" * 32,
        in_service="photo",
        in_service_digest="ef" * 32,
        seed=1234,
        minutes=5.0,
        steps=500,
        versions={"denoise": "0.1.0", "torch": "2.13.0"},
        command="denoise adapt /data/microscope --out weights/mine.safetensors --minutes 5 --seed 1234",
    )


@pytest.fixture
def shots():
    """A scene with photon noise, and what a denoiser makes of it that leaves nothing but the noise."""
    made = []
    for number in range(2):
        rows, columns = torch.arange(300).view(-1, 1), torch.arange(320)
        clean = 400 + 250 * torch.sin(rows / 17 + number) * torch.cos(columns / 23)
        noise = LAW.variance(clean).sqrt() * torch.randn(clean.shape, generator=generator(number))
        made.append(
            DenoisedShot(
                f"cell {number + 1}_1.tif",
                (clean + noise).unsqueeze(2),
                clean.unsqueeze(2),
                (clean + noise / 3).unsqueeze(2),
                laws=(LAW,),
            )
        )
    return tuple(made)
