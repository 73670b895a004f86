"""Errors of a storage that is away. They can be handled without the packages that reach the storage."""

from service.problems import ProblemError

# When to try again, as Retry-After says.
RETRY_SECONDS = 5


class StorageAway(ProblemError):
    """The storage did not answer, or could not do its work. A change may or may not have been made."""

    status = 503

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The service cannot reach its {what}. Try again later.", headers={"Retry-After": str(RETRY_SECONDS)}
        )


class DatabaseAway(StorageAway):
    """The database is away, overloaded, or became a read-only copy."""

    def __init__(self) -> None:
        super().__init__("database")


class BlobsAway(StorageAway):
    """The blob store is away, or refuses."""

    def __init__(self) -> None:
        super().__init__("file store")
