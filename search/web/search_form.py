"""What the search page is asked: its form, and the address under which the same is asked again."""

from dataclasses import astuple, dataclass
from typing import Any
from urllib.parse import urlencode

from django import forms

from search.engine.errors import CropRefused
from search.engine.pictures.crop import Crop
from search.engine.pictures.paths import ALLOWED_EXTENSIONS, has_allowed_extension
from search.queries import MAX_TOP_K, Filters

DEFAULT_TOP = 20

_NOT_ALLOWED = f"This type of file can't be searched with. Use one of {', '.join(ALLOWED_EXTENSIONS)}."
_NO_CROP = (
    "The part of the picture must be four numbers from 0 to 1, left, top, width and height, inside the picture: "
    "0.25,0.1,0.5,0.4."
)


class SearchForm(forms.Form):
    """What is asked: a picture, or the id of one, and which results are wanted."""

    image = forms.FileField(
        required=False,
        max_length=1000,
        error_messages={"empty": "The picture is empty. Choose another one."},
    )
    like = forms.CharField(required=False, max_length=100)
    crop = forms.CharField(required=False, max_length=100)
    folder = forms.CharField(required=False, max_length=1000, strip=False)
    min_score = forms.FloatField(
        required=False,
        min_value=-1,
        max_value=1,
        error_messages=dict.fromkeys(
            ("invalid", "min_value", "max_value"), "The minimum score must be a number from -1 to 1."
        ),
    )
    min_match = forms.FloatField(
        required=False,
        min_value=0,
        max_value=100,
        error_messages=dict.fromkeys(
            ("invalid", "min_value", "max_value"), "The minimum match must be a number from 0 to 100."
        ),
    )
    top = forms.IntegerField(
        required=False,
        min_value=1,
        error_messages=dict.fromkeys(("invalid", "min_value"), "The number of results must be at least 1."),
    )

    def clean_image(self) -> Any:
        image = self.cleaned_data["image"]
        if image and not has_allowed_extension(image.name):
            raise forms.ValidationError(_NOT_ALLOWED)
        return image

    def clean_crop(self) -> Crop | None:
        text = "".join(self.cleaned_data["crop"].split())
        try:
            return Crop.parse(text) if text else None
        except CropRefused as error:
            raise forms.ValidationError(_NO_CROP) from error

    def clean_folder(self) -> str:
        return str(self.cleaned_data["folder"]).strip("/")

    def clean_top(self) -> int:
        return min(self.cleaned_data["top"] or DEFAULT_TOP, MAX_TOP_K)


@dataclass(frozen=True, slots=True)
class Query:
    """A search that somebody asks for. One of image and like, or neither."""

    image: Any = None  # an uploaded file
    like: str = ""  # the id of one of the company's pictures
    crop: Crop | None = None  # the part of the picture that counts
    folder: str = ""
    min_score: float | None = None
    min_match: float | None = None
    top: int = DEFAULT_TOP

    @property
    def filters(self) -> Filters:
        return Filters(location=self.folder, min_score=self.min_score, min_match=self.min_match)

    @property
    def wanted(self) -> dict[str, str]:
        """The fields beside the pictures, as text: "" where nothing is wanted."""
        return {
            "crop": ",".join(map(_plain, astuple(self.crop))) if self.crop else "",
            "folder": self.folder,
            "min_match": _plain(self.min_match),
            "min_score": _plain(self.min_score),
            "top": str(self.top),
        }

    def url_parameters(self, **changes: str) -> str:
        """Return what follows the page's address when this is asked with changes; an upload stands in no URL."""
        values = {"like": self.like} | self.wanted | changes
        if values["top"] == str(DEFAULT_TOP):
            del values["top"]
        given = {name: value for name, value in values.items() if value}
        # A name that is no UTF-8 is not found again, and breaks no page.
        return urlencode(given, safe=",", errors="replace")


def _plain(number: float | None) -> str:
    """Return a number without an exponent, "" for none."""
    return "" if number is None else f"{number:.9f}".rstrip("0").rstrip(".")
