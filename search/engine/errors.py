"""Everything the engine raises.

EngineError
├── ImageUnreadable      a picture that cannot become a vector: the reason is the message
├── CropRefused          a part of a picture that cannot be searched with
├── DecoderBusy          too many large pictures at a time
├── PathRefused          a path that no picture can have, or that leads to something else
├── WeightsUnavailable   the model's weights can be neither found nor fetched
│   └── StillUnavailable that was found out a moment ago, by whoever has said so
├── LoadingStopped       the process was asked to end while it waited for its model
├── DeviceUnavailable    the device asked for is not on this machine
├── NothingToIndex       a folder without one readable picture
├── NotEnoughSpace       the disk cannot hold the index
├── DimensionMismatch    a vector of the wrong length
├── PublishRefused       a target directory that holds something other than an index
├── ArchiveRefused       an archive that is damaged, hostile or not ours, or that must not be written
├── IndexOnItsWay        an index that is being fetched from the store
├── StoreUnavailable     the object store does not answer, or refuses
├── StoreUnsuitable      an object store that lacks something which we rely on
├── ObjectChanged        an object that somebody else has replaced meanwhile
├── EngineUnavailable    the server that searches a company's pictures does not answer
├── MachineDiffers       a part of a build that this machine would embed otherwise than the others
├── UnitRefused          a file of a build's part that is not what was written
├── UnitFailed           a part of a build that workers could not embed
└── IndexUnusable        this index cannot answer
    ├── IndexNotBuilt    there is none yet
    ├── IndexCorrupt     its files disagree or cannot be read
    └── ModelMismatch    it was made by another model than the query
"""


def shown(text: str) -> str:
    """Return text, whatever it holds, in letters that can be shown and that reorder no others."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class EngineError(Exception):
    """Base of all errors of the engine; the message names the thing and says what to do."""


class ImageUnreadable(EngineError):
    """A picture that is refused: broken, mislabelled, not of an allowed format, or too large."""


class CropRefused(EngineError):
    """A part of a picture that lies outside it, has too few pixels or does not go with the rest of the query."""


class DecoderBusy(EngineError):
    """Other large pictures are being decoded; the caller may come again after retry_after seconds."""

    retry_after = 5

    def __init__(self) -> None:
        super().__init__(
            f"Other large pictures are being read: try again in {self.retry_after} seconds, or send a smaller one"
        )


class PathRefused(EngineError):
    """A path that no picture can have here; the message names it, whatever it holds, in letters that can be shown."""

    def __init__(self, path: str, reason: str) -> None:
        text = shown(path)
        super().__init__(f"{text if len(text) <= 200 else f'{text[:200]}...'}: {reason}")
        self.reason = reason


class WeightsUnavailable(EngineError):
    """The weights of the model are not on this machine and cannot be fetched."""


class StillUnavailable(WeightsUnavailable):
    """The weights could not be fetched a moment ago, by this process or another one, and are not asked for again."""


class LoadingStopped(EngineError):
    """This process was asked to end while the weights were downloaded or the model exported."""


class DeviceUnavailable(EngineError):
    """IMAGESEARCH_DEVICE names a device that this machine does not have."""


class NothingToIndex(EngineError):
    """The image folder is missing or holds no picture that could be read."""


class NotEnoughSpace(EngineError):
    """The disk has too little room for the new index beside the old one."""


class DimensionMismatch(EngineError):
    """A vector whose length is not the index's."""


class PublishRefused(EngineError):
    """The directory to publish into holds something that is not an index."""


class ArchiveRefused(EngineError):
    """An archive that cannot be read whole, or a file that must not become one."""


class IndexOnItsWay(EngineError):
    """The index is being fetched from the store; the caller may come again after retry_after seconds."""

    retry_after = 5

    def __init__(self, company: str) -> None:
        super().__init__(
            f"The index of company '{company}' is on its way to this machine: try again in {self.retry_after} seconds"
        )


class StoreError(EngineError):
    """Base of what an object store fails to do: nothing is known of what it was asked for."""


class StoreUnavailable(StoreError):
    """The object store does not answer, or refuses what was asked of it."""


class StoreRefused(StoreUnavailable):
    """The store answers, and refuses what was asked of it: a key, a bucket, an object; waiting does not help."""


class StoreUnsuitable(StoreError):
    """An object store that lacks something which we rely on, or holds an object beside which nothing can be listed."""


class ObjectChanged(EngineError):
    """Somebody else has replaced an object meanwhile."""


class EngineUnavailable(EngineError):
    """The server that searches a company's pictures does not answer; the caller may come again after retry_after
    seconds."""

    retry_after = 5


class MachineDiffers(EngineError):
    """This machine's model or libraries are not those that the rest of a build is embedded with."""


class UnitRefused(EngineError):
    """A part of a build, or what a worker made of it, is not what was written."""


class UnitFailed(EngineError):
    """A part of a build that a worker could not embed, or that several could not; the message tells why."""


class IndexUnusable(EngineError):
    """Base of the reasons why an index cannot answer until somebody rebuilds or repairs it."""


class IndexNotBuilt(IndexUnusable):
    """The directory holds no index."""


class IndexCorrupt(IndexUnusable):
    """A file of the index is missing, unreadable or disagrees with the others."""


class ModelMismatch(IndexUnusable):
    """The index was made with another model than the one that embeds the query."""
