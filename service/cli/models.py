"""Commands for weights files: `models` lists them, `ship` makes them smaller, `export` converts them to ONNX."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from service.cli.console import out, warn, warn_without_kernels
from service.cli.evaluate import SIGMAS, LimitOption, refuse_other_than_one, trials
from service.cli.options import CleanOption, PairsOption, SigmaOption, WeightsArgument, out_option
from service.cli.weights import load

# Largest change of an image's PSNR for which weights are stored in float16, in dB.
LARGEST_CHANGE = 0.001
# Digits of a digest that `denoise models` shows.
DIGEST_LENGTH = 12


def models(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="Folder of weights.", show_default="the shipped weights and DENOISE_WEIGHTS"
        ),
    ] = None,
) -> None:
    """List the available weights, and what each is for. Adapted weights show the noise that they are for.

    Of two for the same images, the one with more parameters takes longer and removes noise better. `denoise
    evaluate` compares their quality, on the same images for all.

    - `denoise models`

    - `denoise models --weights my-weights/`
    """
    from engine.inference.model_selection import AUTO_MODELS
    from engine.models import checkpoint
    from service.registry.purpose import CHOICE, purpose_of

    files = sorted(folder.glob(f"*{checkpoint.SUFFIX}")) if folder else [*checkpoint.known_files().values()]
    if not files:
        place = folder or checkpoint.weights_folder()
        raise ValueError(f"{place}: no {checkpoint.SUFFIX} files in this folder, or no such folder")
    # A name must be whole: it is what --model takes.
    name = Column("name", min_width=max(len(path.stem) for path in files))
    digest = Column("digest", min_width=DIGEST_LENGTH)
    table = Table(name, "what it is for", Column("parameters", justify="right", no_wrap=True), digest)
    for choice in () if folder else AUTO_MODELS:
        table.add_row(choice, CHOICE.use)
    broken = 0
    for path in files:
        try:
            file = checkpoint.read(path)
        except checkpoint.WeightsError as fault:
            broken += 1
            warn(str(fault))
            continue
        parameters = f"{file.parameter_count:,}"
        use = purpose_of(file.metadata).use or ""
        table.add_row(file.name, use, parameters, file.digest[:DIGEST_LENGTH])
    out.print(table)
    if broken:
        raise ValueError(f"{broken} of {len(files)} files could not be read")


def ship(
    weights: WeightsArgument,
    output: Annotated[Path, out_option("File to write, .safetensors.")],
    pairs: PairsOption = None,
    clean: CleanOption = None,
    sigma: SigmaOption = None,
    limit: LimitOption = None,
) -> None:
    """Halve a weights file by storing float16, if this changes no image's PSNR by more than 0.001 dB.

    Otherwise the file stays float32.

    - `denoise ship my.safetensors --clean images/ --out weights/my.safetensors`

    - `denoise ship my.safetensors --pairs val.pkl --out weights/my.safetensors`
    """
    from engine.evaluation.evaluate import largest_change
    from engine.models import checkpoint

    refuse_other_than_one(pairs, clean)
    warn_without_kernels()
    # Before the images, which take longer to read.
    model = load(weights, "cpu", "float32")
    limited = [trial.first(limit) for trial in trials(pairs, clean, sigma or SIGMAS)]
    half = checkpoint.rounded(model.net, model.config, checkpoint.HALF)
    change = max(largest_change(model.net, half, trial.samples) for trial in limited)
    dtype = checkpoint.HALF if change <= LARGEST_CHANGE else checkpoint.FULL
    checkpoint.save(output, model.net, model.config, model.metadata, dtype)
    warn(
        f"float16 changes an image's PSNR by at most {change:.6f} dB."
        f" Wrote {checkpoint.DISK_TYPES[dtype]}, {output.stat().st_size:,} bytes."
    )


def export(
    weights: WeightsArgument,
    output: Annotated[Path, out_option("File to write, .onnx.")],
) -> None:
    """Export weights to ONNX (opset 17), for ONNX Runtime, OpenVINO and others.

    The input `image` is float32 (N, height, width, 3): RGB on [0, 1], of any size. The output `denoised` has the
    same shape and is not clipped to [0, 1]. The graph pads the image and crops the result, as `denoise run` does.
    The metadata holds the weights' name and digest, and the network's stride.

    Needs the package onnx: `pip install 'denoise[onnx]'`.

    - `denoise export photo --out photo.onnx`

    - `denoise export my.safetensors --out my.onnx`
    """
    from engine.inference.tiling import GRID
    from engine.models.onnx_export import onnx_bytes
    from engine.system.atomic_file import write_atomically

    model = load(weights, "cpu", "float32")
    metadata = {"name": model.name, "digest": model.digest, "stride": str(model.net.stride)}
    data = onnx_bytes(model.net, multiple=GRID, metadata=metadata)
    write_atomically(output, data)
    warn(f"Wrote {output}, {len(data):,} bytes.")
