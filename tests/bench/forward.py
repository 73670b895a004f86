"""Group `forward`: compares a whole image, from array to array, with torch.nn, ONNX Runtime and OpenVINO.

All run the same weights on the same number of threads. Ours is `denoise_image` with its default memory budget, so
it may split a large image into windows. The others take it whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor

from engine.inference.denoise import denoise_image
from engine.layers import Arena
from engine.models.networks import NetworkConfig

from .peers import Denoise, onnx_runtime, openvino, torch_nn
from .rows import PRECISIONS, Options, Row, Unavailable, check_equal, compared, report_skipped
from .subjects import NETWORKS, image, network, on
from .timing import fastest, interleaved

SIZES = ((512, 512), (1365, 2048))


def rows(
    options: Options,
    networks: Mapping[str, NetworkConfig] = NETWORKS,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Iterator[Row]:
    """sizes: (height, width) in pixels."""
    for name, spec in networks.items():
        for size in sizes:
            case = f"{name}, {size[1]} x {size[0]}"
            for precision in options.precisions:
                if options.wants(case):
                    yield from _rows(case, spec, size, precision, options)


def _rows(
    case: str, spec: NetworkConfig, size: tuple[int, int], precision: str, options: Options
) -> Iterator[Row]:
    net, given = on(network(spec, PRECISIONS[precision]), options.device), image(*size)
    arena = Arena()

    def ours() -> Tensor:
        # Keeps memory from image to image, as the service, ONNX Runtime and OpenVINO do.
        with arena.used():
            return denoise_image(net, given)

    expected = ours()
    peers: dict[str, Denoise] = {}
    runtimes = (("onnxruntime", onnx_runtime), ("openvino", openvino))
    for peer, make in runtimes if options.device == "cpu" else ():
        try:
            peers[peer] = make(net, size, precision, options.threads)
        except Unavailable as why:
            report_skipped(f"{case}, {precision}", peer, why)
    ways = torch_nn(net, precision, options.device)
    works = {peer: partial(denoise, given) for peer, denoise in {**ways, **peers}.items()}
    for peer, work in works.items():
        check_equal(f"{case}, {peer}", expected, work(), precision)
    best = fastest({way: works[way] for way in ways})

    named = {f"torch.nn {best}": works[best], **{peer: works[peer] for peer in peers}}
    seconds = interleaved({"ours": ours, **named}, options.rounds)
    megapixels = size[0] * size[1] / 1e6
    for peer in named:
        yield compared("forward", case, precision, megapixels, "Mpx/s", seconds["ours"], seconds[peer], peer)
