"""`denoise serve`: starts the service."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from engine.system.os_errors import describe
from service.settings import Settings, variable


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
        raise ValueError("; ".join(map(_fault_words, error.errors()))) from None

    from service.server import server

    try:
        server.serve(settings, host, port)
    except OSError as error:
        if hint := _setting_of(error, settings):
            raise ValueError(f"{describe(error)}. {hint}") from None
        raise


def _fault_words(fault: Any) -> str:
    """An invalid setting: its two names, the value unless it is secret, and what is wrong."""
    name = str(fault["loc"][0])
    # pydantic begins the words of this program's own checks with these.
    reason = fault["msg"].removeprefix("Value error, ")
    if not Settings.model_fields[name].repr:
        return f"{variable(name)}: {reason}"
    given = f"{variable(name)} or {_flag(name)}"
    return f"{given}: {reason}" if fault["input"] is None else f"{given} is {str(fault['input'])!r}: {reason}"


def _setting_of(error: OSError, settings: Settings) -> str | None:
    """What to do about a file that a setting names and that cannot be used; None for other files."""
    for name in ("keys_file", "spool", "weights"):
        path = getattr(settings, name)
        if path and error.filename and path in (Path(error.filename), *Path(error.filename).parents):
            hint = f"This is the setting {variable(name)}, or {_flag(name)}."
            is_missing_key_file = name == "keys_file" and isinstance(error, FileNotFoundError)
            create = f" Create it with: denoise keys add NAME --keys-file {path}" if is_missing_key_file else ""
            return hint + create
    return None


def _flag(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"
