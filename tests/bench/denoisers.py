"""Group `denoisers`: compares speed and quality with classical denoisers, on white noise of σ 25.

The numbers are means over centre crops. The noise is not clipped. A method that takes the noise level gets it,
and our networks estimate it. All get the same noisy crops in float32. For OpenCV they are rounded to bytes.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.evaluation.metrics import psnr
from engine.imageio.read import image_files, read_rgb
from engine.inference.denoise import denoise_image
from engine.layers import Module
from engine.models import checkpoint

from .rows import PRECISIONS, Options, Row, Unavailable, compared, report_skipped
from .timing import interleaved

# Standard deviation of the noise, on the scale of 0 to 255.
SIGMA = 25.0
# Side of a crop, in pixels.
CROP = 256
SEED = 0
EXAMPLES = Path(__file__).parent.parent.parent / "weights" / "examples"
# The other examples are noisy or denoised.
CLEAN_EXAMPLES = ("city.jpg", "mountain.jpg")

# Strengths of non-local means, as shares of σ. They have the best PSNR of all from 0.3 to 1.4, at σ 25 on six
# crops of Kodak images.
H_OPENCV = (0.7, 0.6)  # luminance, colour
H_SCIKIT = 0.5

Denoise = Callable[[Tensor], Tensor]


def rows(
    options: Options, models: Mapping[str, Module] | None = None, crop: int = CROP, sigma: float = SIGMA
) -> Iterator[Row]:
    """models: networks by name, in place of the shipped weights. crop: side in pixels."""
    clean = _crops(options, crop)
    rng = torch.Generator().manual_seed(SEED)
    noisy = [image + sigma / 255 * torch.randn(image.shape, generator=rng) for image in clean]
    peers: dict[str, Denoise] = {}
    for name, make in PEERS.items():
        if not options.wants(name):
            continue
        try:
            peers[name] = make(sigma, options.threads)
        except Unavailable as why:
            report_skipped(f"σ {sigma:g}", name, why)
    ours = {
        (name, precision): lambda image, net=net: denoise_image(net, image)
        for (name, precision), net in _models(options, models).items()
    }
    everything = {**ours, **peers}
    works = {key: lambda d=denoise: [d(p) for p in noisy] for key, denoise in everything.items()}
    quality = {key: _quality(work(), clean) for key, work in works.items()}
    seconds = interleaved(works, options.rounds)
    megapixels = sum(image[..., 0].numel() for image in clean) / 1e6
    for name, precision in ours:
        mine = (name, precision)
        for peer in peers:
            yield compared(
                "denoisers",
                f"{name}, σ {sigma:g}, {len(clean)} x {crop}²",
                precision,
                megapixels,
                "Mpx/s",
                seconds[mine],
                seconds[peer],
                peer,
                psnr=quality[mine],
                peer_psnr=quality[peer],
            )


def bm3d(sigma: float, threads: int) -> Denoise:
    """BM3D for colour, with its default profile. Source: Dabov et al. 2007; Mäkinen et al. 2020."""
    try:
        import bm3d as library
    except ImportError as error:
        raise Unavailable("bm3d is not installed") from error
    profile = library.BM3DProfile()
    profile.num_threads = threads
    return lambda noisy: _tensor(library.bm3d_rgb(noisy.numpy(), sigma / 255, profile))


def opencv(sigma: float, threads: int) -> Denoise:
    """OpenCV's non-local means for colour, with windows of 7 and 21 as in its documentation."""
    try:
        import cv2
    except ImportError as error:
        raise Unavailable("opencv-python-headless is not installed") from error
    cv2.setNumThreads(threads)
    h, h_colour = (part * sigma for part in H_OPENCV)

    def denoise(noisy: Tensor) -> Tensor:
        samples = noisy.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
        return _tensor(cv2.fastNlMeansDenoisingColored(samples, None, h, h_colour, 7, 21)) / 255

    return denoise


def wavelet(sigma: float, threads: int) -> Denoise:
    """scikit-image's wavelet shrinkage in YCbCr, with BayesShrink (Chang et al. 2000)."""
    try:
        from skimage.restoration import denoise_wavelet
    except ImportError as error:
        raise Unavailable("scikit-image is not installed") from error
    parameters = {"sigma": sigma / 255, "method": "BayesShrink", "convert2ycbcr": True, "rescale_sigma": True}
    return lambda noisy: _tensor(denoise_wavelet(noisy.clamp(0, 1).numpy(), channel_axis=2, **parameters))


def nl_means(sigma: float, threads: int) -> Denoise:
    """scikit-image's fast non-local means, with patches of 5 and a distance of 6 as in its documentation."""
    try:
        from skimage.restoration import denoise_nl_means
    except ImportError as error:
        raise Unavailable("scikit-image is not installed") from error
    parameters = {"h": H_SCIKIT * sigma / 255, "sigma": sigma / 255, "patch_size": 5, "patch_distance": 6}
    return lambda noisy: _tensor(denoise_nl_means(noisy.numpy(), fast_mode=True, channel_axis=2, **parameters))


PEERS: Mapping[str, Callable[[float, int], Denoise]] = {
    "BM3D": bm3d,
    "OpenCV NLM": opencv,
    "scikit-image wavelet": wavelet,
    "scikit-image NLM": nl_means,
}


def _models(options: Options, models: Mapping[str, Module] | None) -> dict[tuple[str, str], Module]:
    if models is not None:
        return {(name, "float32"): net for name, net in models.items()}
    shipped = sorted(checkpoint.weights_folder().glob(f"photo*{checkpoint.SUFFIX}"))
    # The images have colour. photo-grey is for grey images.
    files = [file for file in shipped if file.stem != "photo-grey"]
    return {
        (file.stem, precision): checkpoint.load(file, compute=PRECISIONS[precision]).net
        for precision in options.precisions
        for file in files
    }


def _crops(options: Options, side: int) -> list[Tensor]:
    """The centre of each clean image, float32 (side, side, 3)."""
    if options.images is None:
        files = [EXAMPLES / name for name in CLEAN_EXAMPLES]
    else:
        files = image_files(options.images)
    crops = []
    for file in files[: options.count]:
        image = read_rgb(file).float() / 255
        top, left = ((have - side) // 2 for have in image.shape[:2])
        if top < 0 or left < 0:
            raise SystemExit(f"{file}: the image is smaller than a crop of {side} x {side} pixels")
        crops.append(image[top : top + side, left : left + side].contiguous())
    return crops


def _quality(results: list[Tensor], clean: list[Tensor]) -> float:
    """Mean PSNR in dB. The results are clipped, as in a file."""
    scores = [psnr(a.clamp(0, 1), b) for a, b in zip(results, clean, strict=True)]
    return sum(scores) / len(scores)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()
