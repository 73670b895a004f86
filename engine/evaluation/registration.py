"""Registration: how far one shot of a scene lies from another, and moving it there."""

import torch
from torch import Tensor

# Steps of Gauss-Newton at most, and a step, in pixels, below which none follows.
STEPS = 10
SMALL_STEP = 1e-3
# Of the search, in pixels: images that lie farther apart are not the same frame.
LARGEST_SHIFT = 8.0
# Pixels along the borders that are not compared: what moves in there is unknown.
BORDER = 8


def estimate_shift(image: Tensor, reference: Tensor) -> tuple[float, float]:
    """Rows and columns, in pixels, by which `reference` has to be moved to lie on `image`.

    image, reference: float (H, W, C) of the same scene. `reference` is the one with less noise: its gradient is
    used, so noise in `image` does not bias the result. (0, 0) where the scene does not tell, as a flat one does
    not, or where the search leaves LARGEST_SHIFT.
    Source: Lucas, Kanade, "An iterative image registration technique", IJCAI 1981, with one displacement for all.
    """
    target, moving = image.double().mean(2), reference.double().mean(2)
    inside = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    shift = torch.zeros(2, dtype=torch.float64)
    for _ in range(STEPS):
        moved = _moved(moving, shift)
        slopes = torch.stack([slope[inside].flatten() for slope in torch.gradient(moved)], 1)
        difference = (target - moved)[inside].flatten()
        normal = slopes.mT @ slopes
        if not bool(torch.linalg.det(normal) > 1e-9 * torch.trace(normal) ** 2):
            return 0.0, 0.0
        # Moving the image by d changes it by -slope * d.
        step = -torch.linalg.solve(normal, slopes.mT @ difference)
        shift = shift + step
        if bool(shift.abs().max() > LARGEST_SHIFT):
            return 0.0, 0.0
        if bool(step.abs().max() < SMALL_STEP):
            break
    rows, columns = shift.tolist()
    return rows, columns


def move(image: Tensor, rows: float, columns: float) -> Tensor:
    """The image, float (H, W, C), moved down by `rows` pixels and right by `columns`. Its borders are mirrored.

    The phases of its Fourier transform are shifted, so nothing is blurred.
    """
    shift = torch.tensor((rows, columns), dtype=torch.float64)
    planes = [_moved(plane.double(), shift) for plane in image.unbind(2)]
    return torch.stack(planes, 2).to(image.dtype)


def _moved(plane: Tensor, shift: Tensor) -> Tensor:
    height, width = plane.shape
    # Continued by its mirror image, so that no edge lies between one side and the other.
    tall = torch.cat((plane, plane.flip(0)))
    whole = torch.cat((tall, tall.flip(1)), 1)
    across = torch.fft.rfftfreq(2 * width, dtype=torch.float64)
    down = torch.fft.fftfreq(2 * height, dtype=torch.float64).unsqueeze(1)
    phase = torch.exp(-2j * torch.pi * (down * shift[0] + across * shift[1]))
    moved: Tensor = torch.fft.irfft2(torch.fft.rfft2(whole) * phase, whole.shape)
    return moved[:height, :width]
