"""`denoise publish`: lets all replicas of the service serve a weights file."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.console import out


def publish(
    file: Annotated[Path, typer.Argument(help="Weights file, .safetensors.", exists=True, dir_okay=False)],
    name: Annotated[
        str | None, typer.Option(help="Name to serve it under.", show_default="the file's name")
    ] = None,
) -> None:
    """Let all replicas of the service serve a weights file, without a restart.

    Needs DENOISE_DATABASE and DENOISE_BLOBS, with the values that the replicas have. `POST /models/NAME/rollback`
    returns to the weights that they served before.

    - `denoise publish mine.safetensors`

    - `denoise publish mine.safetensors --name photo`
    """
    from engine.inference.model_selection import AUTO_MODELS
    from engine.inference.sanity import check_network
    from engine.models import checkpoint
    from service.registry.shared_weights import SharedWeights
    from service.settings import Settings, variable
    from service.storage.away import StorageAway
    from service.storage.storage import open_storage

    name = name or file.stem
    if name in AUTO_MODELS or not name.isprintable() or "/" in name:
        raise ValueError(f"weights cannot have the name {name!r}")
    model = checkpoint.load(file)
    try:
        check_network(model.net)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    storage = open_storage(Settings())
    if storage is None:
        raise ValueError(
            f"{variable('database')} and {variable('blobs')} are not set: set them as the replicas have them"
        )
    try:
        SharedWeights(storage).publish(name, model.digest, file)
    except StorageAway as error:
        raise ValueError(str(error)) from error
    finally:
        storage.close()
    out.print(f"All replicas are to serve {name} with SHA-256 {model.digest}.", soft_wrap=True)
