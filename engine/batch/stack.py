"""Stacks: denoises files of many pages page by page, in memory that does not grow with the pages.

The result is a TIFF file.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

from engine.defaults import MEMORY_BUDGET
from engine.imageio.formats import FORMATS, detect_format
from engine.imageio.image import Image
from engine.imageio.mapped_file import forget_pages
from engine.imageio.read import count_pages, read_pages
from engine.imageio.write import StackWriter
from engine.inference.denoise import OutputOptions, denoise
from engine.inference.model_selection import NetworkSelector, Selection
from engine.inference.noise_estimation.pages import sampled_pages
from engine.inference.preparation import Preparation, PreparationOptions, page_preparer, steps_for, words_of

TIFF = FORMATS["tiff"]
# Formats whose pages are read one by one, from the disk where the file is large.
STACK_FORMATS = (TIFF, *(FORMATS[name] for name in ("fits", "mrc", "czi", "nd2")))
# Bytes of samples from which a result is written as BigTIFF. TIFF itself ends at 4 GB, and pages can differ.
BIGTIFF_BYTES = 2**31


@dataclass(frozen=True)
class StackOptions:
    """How the pages are denoised; see DenoiseOptions."""

    output: OutputOptions
    preparation: PreparationOptions
    memory_budget: int = MEMORY_BUDGET


@dataclass(frozen=True)
class StackResult:
    """pixels: of all pages. changed: what was done, and what the file cannot hold, in words."""

    selection: Selection
    pixels: int
    changed: tuple[str, ...]


def stack_pages(data: bytes) -> int:
    """How many pages a file in one of STACK_FORMATS has; 0 for one page, and for other files.

    Raises ValueError for no image.
    """
    count = count_pages(data) if detect_format(data) in STACK_FORMATS else 0
    return count if count > 1 else 0


def denoise_stack(
    select: NetworkSelector,
    data: bytes,
    count: int,
    file: BinaryIO,
    options: StackOptions,
    on_page: Callable[[Selection, int], None],
) -> StackResult:
    """Denoise the `count` pages of a file into a TIFF file, each on its own.

    The noise is measured in some pages, spread over the stack, before the first is denoised. file: can be read
    too. on_page: called with the number of pages that are done. Raises ValueError if a page cannot be read.
    """
    sample = [page for page, _ in read_pages(data, set(sampled_pages(count)))]
    selection = select([page.samples for page in sample])
    steps = steps_for(options.preparation, TIFF, options.output.output, sample)
    prepare = page_preparer([page.samples for page in sample], selection.estimate, steps)
    writer = StackWriter(file, count, big=_sample_bytes(sample, count, steps.finer) >= BIGTIFF_BYTES)
    sample.clear()
    on_page(selection, 0)
    pixels, words, told = 0, dict[str, None](), list[Preparation]()
    for number, (page, changes) in enumerate(read_pages(data), 1):
        preparation = prepare(page.samples)
        if page.alpha is not None:
            # Transparency has the scale of whole counts.
            preparation = replace(preparation, as_float=False)
        clean = denoise(
            selection.net, page, options.memory_budget, options=options.output, preparation=preparation
        )
        writer.write(clean)
        forget_pages(data)
        words |= dict.fromkeys(changes)
        if not told or (told[0].unchanged and not preparation.unchanged):
            told = [preparation]
        pixels += page.samples.shape[0] * page.samples.shape[1]
        on_page(selection, number)
    writer.close()
    return StackResult(selection, pixels, (*words, *writer.changed, *words_of(told)))


def _sample_bytes(pages: list[Image], count: int, finer: bool) -> int:
    """Bytes of all samples, if the other pages are like the largest of these. finer: some may become floats."""
    sizes = [page.samples.numel() + (0 if page.alpha is None else page.alpha.numel()) for page in pages]
    return count * max(sizes) * max(4 if finer else page.samples.element_size() for page in pages)
