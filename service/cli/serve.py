"""The command that starts the service."""

from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.cli.options import with_settings
from service.settings import Settings


@with_settings
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any that is free.")] = 8000,
    **given: Any,
) -> None:
    """Answer over HTTP, and with a page for people at /.

    - `denoise serve`

    - `denoise serve --host 0.0.0.0 --keys-file keys --port 9000 --weights my-weights/ --model mine`
    """
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        faults = (f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_input=False))
        raise ValueError("; ".join(faults)) from None

    from service.server import server

    server.serve(settings, host, port)
