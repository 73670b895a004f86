"""`denoise serve`: starts the service."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service.settings import Settings


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for each setting. A setting without its flag comes from the environment.

    Secrets get no flag, because everyone on the machine can read a command line.
    """
    own = inspect.signature(command)
    parameters = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    for name, field in Settings.model_fields.items():
        if not field.repr:
            continue
        shown = False if field.default is None else str(field.default)
        option = typer.Option(None, help=field.description, show_default=shown)
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=option, annotation=field.annotation))
    vars(command)["__signature__"] = own.replace(parameters=parameters)
    return command


@_with_settings
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on. 0.0.0.0 is every address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on. 0 is any free port.")] = 8000,
    **flags: Any,
) -> None:
    """Start the HTTP API and the web page.

    - `denoise serve`

    - `denoise serve --host 0.0.0.0 --keys-file keys --port 9000 --weights my-weights/ --model mine`
    """
    try:
        settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        faults = (f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors(include_input=False))
        raise ValueError("; ".join(faults)) from None

    from service.server import server

    server.serve(settings, host, port)
