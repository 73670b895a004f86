"""Finding images: the image files in folders and buckets, and their formats."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from engine.imageio.formats import FORMATS, SUPPORTED_FORMATS, Format, detect_format
from engine.imageio.read import is_image_name
from engine.storage.bucket import FileStamp
from engine.storage.locations import Location, ObjectPath, file_stamp
from engine.system.file_names import earlier_results

T = TypeVar("T")

# Standard input as a source, standard output as a target.
PIPE = Path("-")
# First bytes of a file that tell its format.
_HEAD_BYTES = 4096
# Files whose formats are kept in memory.
KNOWN_FORMATS = 2**16
# Objects that are asked for at once. A request takes some 20 ms, nearly all of it waiting.
_OBJECTS_AT_ONCE = 32
# Objects that a thread takes at once. Most need no request, and a call to a thread costs more than they do.
_PART = 32


@dataclass
class FoundFiles:
    """The image files in a folder. left_out: other files. folders: subfolders that were not searched.

    results: images that were made from others of the folder; see `earlier_results`.
    """

    images: list[Location] = field(default_factory=list)
    results: list[Location] = field(default_factory=list)
    left_out: list[Location] = field(default_factory=list)
    folders: list[Location] = field(default_factory=list)


def files_of(inputs: Sequence[Location], recursive: bool = False, skip: Location | None = None) -> list[Location]:
    """Image files and folders of them -> the files. Raises ValueError naming an input that does not exist.

    recursive: also those in subfolders. skip: a folder that is not searched.
    """
    files: list[Location] = []
    for path in inputs:
        if path.is_dir():
            found = find_images(path, recursive, skip)
            if not found.images:
                hint = "; its subfolders were not searched" if found.folders else ""
                raise ValueError(f"{path}: no images in this folder{hint}. {SUPPORTED_FORMATS}.")
            files += found.images
        elif path == PIPE or path.is_file():
            files.append(path)
        else:
            raise ValueError(f"{path}: no such file or folder")
    return files


def find_images(folder: Location, recursive: bool = False, skip: Location | None = None) -> FoundFiles:
    """The image files in a folder, sorted by name, and what is left out. Hidden files are not mentioned.

    recursive: also those in subfolders. skip: a folder that is not searched, such as the outputs'.
    """
    if isinstance(folder, ObjectPath):
        return _find_objects(folder, recursive, skip)
    found = FoundFiles()
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name.startswith(".") or _is_same_folder(path, skip):
                continue
            # A link to a folder above would never end.
            if not recursive or path.is_symlink():
                found.folders.append(path)
                continue
            inner = find_images(path, recursive, skip)
            found.images += inner.images
            found.results += inner.results
            found.left_out += inner.left_out
            found.folders += inner.folders
        elif is_image_file(path):
            found.images.append(path)
        elif not path.name.startswith("."):
            found.left_out.append(path)
    _part_results(found)
    return found


def _part_results(found: FoundFiles) -> None:
    """Moves earlier results out of the images. Those of subfolders are out already."""
    results = earlier_results(found.images)
    found.results += sorted(results, key=str)
    found.images = [path for path in found.images if path not in results]


def _is_same_folder(path: Path, other: Location | None) -> bool:
    return isinstance(other, Path) and other.exists() and path.samefile(other)


def _find_objects(folder: ObjectPath, recursive: bool, skip: Location | None) -> FoundFiles:
    """As `find_images`, in a bucket."""
    bucket, found, skipped = folder.bucket, FoundFiles(), ""
    if isinstance(skip, ObjectPath) and skip.bucket == bucket and skip.prefix != folder.prefix:
        skipped = skip.prefix
    keys, folders = (bucket.listed(folder.prefix), []) if recursive else bucket.listed_folder(folder.prefix)

    def is_searched(key: str) -> bool:
        """Whether the key's folders are neither hidden nor to be skipped."""
        if skipped and key.startswith(skipped):
            return False
        return "/." not in f"/{key.removeprefix(folder.prefix).rpartition('/')[0]}"

    found.folders += [ObjectPath(bucket, inner.rstrip("/")) for inner in filter(is_searched, folders)]
    paths: list[Location] = [ObjectPath(bucket, key) for key in filter(is_searched, keys)]
    for path, is_image in zip(paths, each_of(is_image_file, paths), strict=True):
        if is_image:
            found.images.append(path)
        elif not path.name.startswith("."):
            found.left_out.append(path)
    _part_results(found)
    return found


def is_image_file(path: Location) -> bool:
    """Whether a file is an image, by its suffix or without one by its content, and not hidden or temporary."""
    if path.suffix:
        return is_image_name(path.name)
    return not path.name.startswith((".", "~")) and detected_format(path) is not None


def detected_format(source: Location) -> Format | None:
    """The format of a file, by its first bytes; None if it is no image, or cannot be read.

    The suffix of an object tells its format. Only an object without one is read.
    """
    try:
        stamp = file_stamp(source)
    except OSError:
        return None
    return detected(source, stamp) if stamp else None


@lru_cache(KNOWN_FORMATS)
def detected(source: Location, stamp: FileStamp) -> Format | None:
    """As `detected_format`, for the stamp that the file has."""
    try:
        if isinstance(source, ObjectPath):
            by_suffix = [kind for kind in FORMATS.values() if source.suffix.lower() in kind.suffixes]
            return by_suffix[0] if by_suffix else detect_format(source.read_head(_HEAD_BYTES), stamp[0])
        with source.open("rb") as file:
            return detect_format(file.read(_HEAD_BYTES), stamp[0])
    except (ValueError, OSError):
        return None


def each_of(function: Callable[[Location], T], paths: Sequence[Location]) -> list[T]:
    """The function's results for all paths. For objects it may have to wait, so these are asked at once."""
    if not any(isinstance(path, ObjectPath) for path in paths):
        return [function(path) for path in paths]
    parts = [paths[start : start + _PART] for start in range(0, len(paths), _PART)]
    with ThreadPoolExecutor(_OBJECTS_AT_ONCE) as pool:
        results = pool.map(lambda part: [function(path) for path in part], parts)
        return [result for part in results for result in part]
