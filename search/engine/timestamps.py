from datetime import UTC, datetime


def timestamp(moment: datetime | None = None) -> str:
    """Return moment, or now, as every timestamp of the contract is written: UTC, 2025-10-27T12:00:00.000Z."""
    return (moment or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
