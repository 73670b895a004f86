"""Group `denoisers`: speed and quality beside classical denoisers, white noise of σ 25, mean over centre crops.

The noise is not clipped, and each method that can be told its level is told. Our networks
find it out. All are given the same noisy crops, float32; OpenCV, which takes bytes, gets them rounded.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.evaluation.metrics import psnr
from engine.imageio.read import image_files, read_rgb
from engine.inference.denoise import denoise_image
from engine.layers import Layer
from engine.models import checkpoint

from .rows import PRECISIONS, LeftOut, Options, Row, compared, leave_out
from .timing import interleaved

SIGMA, CROP, SEED = 25.0, 256, 0
EXAMPLES = Path(__file__).parent.parent.parent / "weights" / "examples"
# Of the shipped examples those that are noisy already, or were denoised, are no clean images.
CLEAN_EXAMPLES = ("city.jpg", "mountain.jpg")

# The strengths of the two non-local means as parts of σ, for OpenCV of brightness and of colour: of all from 0.3
# to 1.4 those with the best PSNR at σ 25 on six crops of Kodak images.
H_OPENCV, H_SCIKIT = (0.7, 0.6), 0.5

Denoise = Callable[[Tensor], Tensor]


def rows(
    options: Options, models: Mapping[str, Layer] | None = None, crop: int = CROP, sigma: float = SIGMA
) -> Iterator[Row]:
    """models: networks by name, instead of the shipped weights in each precision. crop: side, in pixels."""
    clean = _crops(options, crop)
    rng = torch.Generator().manual_seed(SEED)
    noisy = [image + sigma / 255 * torch.randn(image.shape, generator=rng) for image in clean]
    peers: dict[str, Denoise] = {}
    for name, make in PEERS.items():
        if not options.wants(name):
            continue
        try:
            peers[name] = make(sigma, options.threads)
        except LeftOut as why:
            leave_out(f"σ {sigma:g}", name, why)
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
    """BM3D for colour, its usual profile. Source: Dabov et al. 2007; Mäkinen et al. 2020."""
    try:
        import bm3d as library
    except ImportError as error:
        raise LeftOut("bm3d is not installed") from error
    profile = library.BM3DProfile()
    profile.num_threads = threads
    return lambda noisy: _tensor(library.bm3d_rgb(noisy.numpy(), sigma / 255, profile))


def opencv(sigma: float, threads: int) -> Denoise:
    """OpenCV's non-local means for colour: windows of 7 and 21 as its documentation recommends."""
    try:
        import cv2
    except ImportError as error:
        raise LeftOut("opencv-python-headless is not installed") from error
    cv2.setNumThreads(threads)
    h, h_colour = (part * sigma for part in H_OPENCV)

    def denoise(noisy: Tensor) -> Tensor:
        samples = noisy.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
        return _tensor(cv2.fastNlMeansDenoisingColored(samples, None, h, h_colour, 7, 21)) / 255

    return denoise


def wavelet(sigma: float, threads: int) -> Denoise:
    """scikit-image's wavelet shrinkage, thresholds by BayesShrink (Chang et al. 2000), in YCbCr."""
    try:
        from skimage.restoration import denoise_wavelet
    except ImportError as error:
        raise LeftOut("scikit-image is not installed") from error
    told = {"sigma": sigma / 255, "method": "BayesShrink", "convert2ycbcr": True, "rescale_sigma": True}
    return lambda noisy: _tensor(denoise_wavelet(noisy.clamp(0, 1).numpy(), channel_axis=2, **told))


def nl_means(sigma: float, threads: int) -> Denoise:
    """scikit-image's non-local means in its fast mode, its documentation's windows: 5, and 6 pixels around."""
    try:
        from skimage.restoration import denoise_nl_means
    except ImportError as error:
        raise LeftOut("scikit-image is not installed") from error
    told = {"h": H_SCIKIT * sigma / 255, "sigma": sigma / 255, "patch_size": 5, "patch_distance": 6}
    return lambda noisy: _tensor(denoise_nl_means(noisy.numpy(), fast_mode=True, channel_axis=2, **told))


PEERS: Mapping[str, Callable[[float, int], Denoise]] = {
    "BM3D": bm3d,
    "OpenCV NLM": opencv,
    "scikit-image wavelet": wavelet,
    "scikit-image NLM": nl_means,
}


def _models(options: Options, models: Mapping[str, Layer] | None) -> dict[tuple[str, str], Layer]:
    if models is not None:
        return {(name, "float32"): net for name, net in models.items()}
    shipped = sorted(checkpoint.weights_folder().glob(f"photo*{checkpoint.SUFFIX}"))
    # The images have colour, of which that one knows nothing.
    files = [file for file in shipped if file.stem != "photo-grey"]
    return {
        (file.stem, precision): checkpoint.load(file, compute=PRECISIONS[precision]).net
        for precision in options.precisions
        for file in files
    }


def _crops(options: Options, side: int) -> list[Tensor]:
    """The middle of each clean image, float32 (side, side, 3)."""
    if options.images is None:
        files = [EXAMPLES / name for name in CLEAN_EXAMPLES]
    else:
        files = image_files(options.images)
    crops = []
    for file in files[: options.count]:
        image = read_rgb(file).float() / 255
        top, left = ((have - side) // 2 for have in image.shape[:2])
        if top < 0 or left < 0:
            raise SystemExit(f"{file}: smaller than a crop of {side} x {side} pixels")
        crops.append(image[top : top + side, left : left + side].contiguous())
    return crops


def _quality(results: list[Tensor], clean: list[Tensor]) -> float:
    """Mean PSNR in dB, the results clipped as a file would be."""
    scores = [psnr(a.clamp(0, 1), b) for a, b in zip(results, clean, strict=True)]
    return sum(scores) / len(scores)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()
