"""How a length of time is written for people."""

from tqdm import tqdm


def format_seconds(seconds: float) -> str:
    """Return a length of time as 1:02:03, or 02:03 below an hour."""
    return str(tqdm.format_interval(seconds))
