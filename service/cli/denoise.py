"""`denoise run`: denoises image files, folders of them, or an image from a pipe."""

import sys
from typing import Annotated, Any, Literal

import typer

from engine import defaults
from engine.batch.cluster.plan import BATCH_MEGAPIXELS, WORKER_CORES, ClusterOptions
from engine.imageio.formats import FORMATS, SAME, WRITABLE_FORMATS, CannotWrite, format_name, output_format
from engine.storage.locations import Location, is_url, location
from service.cli.console import warn_without_kernels
from service.cli.options import BudgetOption, DeviceOption, ModelOption, PrecisionOption
from service.cli.run_batch import BatchOptions, ModelOptions, run_batch, run_watch

# Headings of --help.
RESULT = "The result"
STEPS = "Steps before the network"
CLUSTER = "More than one machine"

Engine = Literal["local", "ray"]

# As text, because a path would shorten the slashes of a URL.
InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IN", help="Image files, folders of images, s3://, gs:// or az:// URLs of these, or - for stdin."
    ),
]

# As text, because a path has no slash at its end.
OutOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--out",
        metavar="OUT",
        help="Folder, also in a bucket. For one image also a file name, or - for stdout.",
        show_default="beside one image, as NAME.denoised.EXT",
    ),
]
RecursiveOption = Annotated[
    bool,
    typer.Option("-r", "--recursive", help="Also denoise images in subfolders, into the same subfolders of OUT."),
]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print only what failed.")]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print a line for each file, and name the files left out.")
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Keep running, and denoise new files in the folder IN.")
]
LevelOption = Annotated[
    int,
    typer.Option(
        min=defaults.MIN_PNG_LEVEL,
        max=defaults.MAX_PNG_LEVEL,
        help="PNG compression: 0 is none, 1 is fast and good for photographs, 9 is slowest.",
        rich_help_panel=RESULT,
    ),
]


def _format(text: str) -> str:
    """The name of a format, however it is written. Raises typer.BadParameter."""
    name = format_name(text)
    try:
        output_format(name, FORMATS[defaults.FORMAT])
    except CannotWrite as error:
        raise typer.BadParameter(str(error)) from None
    return name


FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        parser=_format,
        metavar="FORMAT",
        help=f"{', '.join(WRITABLE_FORMATS)}, or {SAME}: the format of the input.",
        show_default="from OUT's name, or the input's if it can be written, else png",
        rich_help_panel=RESULT,
    ),
]
QualityOption = Annotated[
    int | None,
    typer.Option(
        min=defaults.MIN_QUALITY,
        max=defaults.MAX_QUALITY,
        help=defaults.QUALITY_HELP,
        show_default="as the input if both are JPEG, else "
        + ", ".join(f"{kind.title} {kind.quality}" for kind in FORMATS.values() if kind.quality),
        rich_help_panel=RESULT,
    ),
]


EngineOption = Annotated[
    Engine,
    typer.Option(
        help="local: this process. ray: workers on the nodes of a Ray cluster, many images at once.",
        rich_help_panel=CLUSTER,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="Running Ray cluster, or auto for the one of this machine.",
        show_default="a cluster on this machine, for this run",
        rich_help_panel=CLUSTER,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Workers, each of which denoises one image at a time.",
        show_default=f"one for {WORKER_CORES} CPUs, or for each GPU",
        rich_help_panel=CLUSTER,
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="GPUs of each worker. 0.5 lets two workers share one.",
        show_default="1 if the cluster has any",
        rich_help_panel=CLUSTER,
    ),
]
PortionOption = Annotated[
    float,
    typer.Option(
        "--batch-megapixels",
        min=1,
        help="How much a worker is handed at once. Larger batches need fewer entries in the journal.",
        rich_help_panel=CLUSTER,
    ),
]


def _share(text: str, most: float = defaults.MAX_SHARE) -> Any:
    return typer.Option(min=defaults.MIN_SHARE, max=most, help=text, rich_help_panel=RESULT)


StrengthOption = Annotated[float, _share(defaults.STRENGTH_HELP, defaults.MAX_STRENGTH)]
LumaOption = Annotated[float, _share(defaults.LUMA_HELP)]
ChromaOption = Annotated[float, _share(defaults.CHROMA_HELP)]
GrainOption = Annotated[float, _share(defaults.GRAIN_HELP)]
OutputOption = Annotated[defaults.Output, typer.Option(help=defaults.OUTPUT_HELP, rich_help_panel=RESULT)]
PageOption = Annotated[
    int | None, typer.Option(min=1, help=defaults.PAGE_HELP, show_default="all", rich_help_panel=RESULT)
]
ColourOption = Annotated[defaults.Colour, typer.Option(help=defaults.COLOUR_HELP, rich_help_panel=RESULT)]
NormaliseOption = Annotated[defaults.Switch, typer.Option(help=defaults.NORMALISE_HELP, rich_help_panel=STEPS)]
ImpulsesOption = Annotated[defaults.Switch, typer.Option(help=defaults.IMPULSES_HELP, rich_help_panel=STEPS)]
BandingOption = Annotated[defaults.Switch, typer.Option(help=defaults.BANDING_HELP, rich_help_panel=STEPS)]
CleanOption = Annotated[bool, typer.Option("--even-clean", help=defaults.CLEAN_HELP, rich_help_panel=STEPS)]


# The help of `denoise run`.
RUN_HELP = """Denoise image files, folders of images, or an image from a pipe.

Images keep their names and their format where it can be written: JPEG stays JPEG, in the quality of the
input, and the pages of a TIFF stay pages. Other formats become PNG, or TIFF if they have pages
or floating-point samples. FITS, MRC, CZI and ND2 become TIFF. --format and the file name after -o choose
another one. If an image fails, the command reports it and continues with the next one.

Images that would get the same name keep their suffix: a.dng and a.heic become a.dng.png and a.heic.png.

OUT is a folder if it exists as one, has no suffix, or ends with a slash. Without -o, the result of one image
is written beside it.

In folders, images are found by suffix, or by content if they have none. Other files are counted, and -v names
them. So are earlier results, NAME.denoised.EXT beside NAME.

TIFF files of many pages are read and written page by page, so memory does not grow with the pages.

Ctrl-C stops after the current image, or page of a stack, and writes no part of an image. --resume continues: it
skips the images that are done. The list of these is in OUT/.denoise. An image is done again if it, the options
or the weights have changed. A file that is not on the list is overwritten only with --force.

IN and OUT may be in a bucket: s3://BUCKET/FOLDER, gs:// or az://. Credentials come from the environment. In
buckets, an image's suffix tells its format.

--engine ray denoises many images at once, on the nodes of a Ray cluster or the cores of this machine.

--watch denoises each file once it is complete, and again when it changes. After a restart it continues where
it was. It gives up a file at which the command has ended twice, because it crashed or was killed.

Exit codes: 0 if all images are done, 1 if one failed, 2 for wrong usage or a bucket that does not exist, 130 if a
signal stopped it.

- `denoise run noisy.jpg`

- `denoise run noisy.jpg -o clean.png`

- `denoise run scans/ photo.tif -o clean/`

- `denoise run --recursive archive/ -o clean/ --resume`

- `denoise run --engine ray s3://archive/scans/ -o s3://archive/clean/ --resume`

- `denoise run --watch scans/ -o clean/`

- `cat noisy.jpg | denoise run - > clean.jpg`
"""


def run(
    inputs: InputsArgument,
    out: OutOption = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip images that are done.")] = False,
    watch: WatchOption = False,
    recursive: RecursiveOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    model: ModelOption = defaults.MODEL,
    device: DeviceOption = defaults.DEVICE,
    precision: PrecisionOption = defaults.PRECISION,
    memory_budget: BudgetOption = defaults.MEMORY_BUDGET,
    png_level: LevelOption = defaults.PNG_LEVEL,
    format_: FormatOption = None,
    quality: QualityOption = None,
    strength: StrengthOption = defaults.STRENGTH,
    luma: LumaOption = defaults.LUMA,
    chroma: ChromaOption = defaults.CHROMA,
    grain: GrainOption = defaults.GRAIN,
    output: OutputOption = defaults.OUTPUT,
    page: PageOption = None,
    colour: ColourOption = defaults.COLOUR,
    normalise: NormaliseOption = defaults.NORMALISE,
    impulses: ImpulsesOption = defaults.IMPULSES,
    banding: BandingOption = defaults.BANDING,
    even_clean: CleanOption = False,
    engine: EngineOption = "local",
    address: AddressOption = None,
    workers: WorkersOption = None,
    gpus: GpusOption = None,
    batch_megapixels: PortionOption = BATCH_MEGAPIXELS,
) -> None:
    """Denoise images; see `RUN_HELP`."""
    from engine.batch.tasks import DenoiseOptions
    from engine.inference.denoise import OutputOptions
    from engine.inference.preparation import PreparationOptions

    if watch and recursive:
        raise typer.BadParameter("--watch does not search subfolders", param_hint="--recursive")
    if engine == "local" and (workers or gpus is not None):
        raise typer.BadParameter("is for --engine ray", param_hint="--workers" if workers else "--gpus")
    if watch and engine == "ray":
        raise typer.BadParameter("--watch runs in this process only", param_hint="--engine")
    cluster = ClusterOptions(address, workers, gpus, batch_megapixels) if engine == "ray" else None
    sources = [location(text) for text in inputs]
    target = _target(sources, out)
    batch = BatchOptions(sources, target, format_, force, resume, recursive, quiet, verbose, cluster)
    result = OutputOptions(strength, luma, chroma, output, grain)
    steps = PreparationOptions.of(normalise, impulses, banding, even_clean)
    options = DenoiseOptions(quality, page, png_level, result, memory_budget, colour, steps)
    weights = ModelOptions(model, device, precision)
    warn_without_kernels()
    if watch:
        run_watch(batch, options, weights)
    else:
        run_batch(batch, options, weights)


def _target(inputs: list[Location], out: str | None) -> str | Location | None:
    """Where the results go; None for beside the one input. Raises typer.BadParameter if that is not clear."""
    from engine.batch.finding import PIPE

    if out is None and inputs != [PIPE]:
        if len(inputs) == 1 and not inputs[0].is_dir():
            return None
        raise typer.BadParameter("give a folder for the results, such as -o clean/", param_hint="-o")
    target = str(PIPE) if out is None else out
    if not target:
        raise typer.BadParameter("this is empty; give a folder, a file name, or - for stdout", param_hint="-o")
    if target == str(PIPE) and sys.stdout.isatty():
        raise typer.BadParameter("stdout is a terminal; redirect it, or give a file name", param_hint="-o")
    # One object for the whole run: it remembers what is in the bucket.
    return location(target) if is_url(target) else target
