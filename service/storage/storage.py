"""Storage: the database and the blobs that the settings name, if the service is one of several replicas."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.settings import Settings, variable

if TYPE_CHECKING:
    from service.storage.blobs import Blobs
    from service.storage.database import Database


@dataclass(frozen=True)
class Storage:
    """What all replicas share."""

    database: "Database"
    blobs: "Blobs"

    def close(self) -> None:
        """Closes the connections to the database."""
        self.database.close()


def open_storage(settings: Settings) -> Storage | None:
    """The storage that the settings name; None if they name none, so the service keeps everything itself.

    Raises ValueError if it cannot be used, with the reason.
    """
    if settings.database is None or settings.blobs is None:
        return None
    try:
        # Here, because these packages are needed by replicas only.
        from service.storage.blobs import Blobs
        from service.storage.database import Database
    except ImportError as error:
        raise ValueError(
            f"{variable('database')} needs the package {error.name}: install the service with its extra, "
            "as in `pip install '.[cluster]'`"
        ) from None
    blobs = Blobs(settings.blobs)
    return Storage(Database(settings.database), blobs)
