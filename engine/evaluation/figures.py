"""Figures of denoised images. Needs matplotlib, which the extra `train` installs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from engine.evaluation.metrics import psnr
from engine.evaluation.samples import Pair
from engine.inference.denoise import denoise_image
from engine.layers import Module
from engine.training.plots import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def demo(net: Module, pairs: Sequence[Pair], out: Path) -> None:
    """The report's Figure 3, as PNG. Each pair is a row: clean, noisy and denoised, with their PSNR.

    Raises ValueError if there are no pairs, or NoPlots.
    """
    if not pairs:
        raise ValueError("there are no pairs to show")
    figure, axes = new_figure(3, len(pairs), side=3.0)
    for number, (noisy, clean) in enumerate(pairs):
        denoised = denoise_image(net, noisy).clamp(0, 1)
        row = axes[3 * number : 3 * number + 3]
        _show(row[0], clean, "clean")
        _show(row[1], noisy.clamp(0, 1), f"noisy, {psnr(noisy, clean):.2f} dB")
        _show(row[2], denoised, f"denoised, {psnr(denoised, clean):.2f} dB")
    save_figure(figure, out)


def _show(axes: "Axes", image: Tensor, title: str) -> None:
    axes.imshow(image.numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
