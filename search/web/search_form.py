"""What the search page is asked: its form, and the address under which the same is asked again."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django import forms

from search.engine.pictures.paths import ALLOWED_EXTENSIONS, has_allowed_extension
from search.queries import MAX_TOP_K, Filters

DEFAULT_TOP = 20

_NOT_ALLOWED = f"This type of file can't be searched with. Use one of {', '.join(ALLOWED_EXTENSIONS)}."


class SearchForm(forms.Form):
    """What is asked: a picture, or the id of one, and which results are wanted."""

    image = forms.FileField(
        required=False,
        max_length=1000,
        error_messages={"empty": "The picture is empty. Choose another one."},
    )
    like = forms.CharField(required=False, max_length=100)
    folder = forms.CharField(required=False, max_length=1000, strip=False)
    min_score = forms.FloatField(
        required=False,
        min_value=-1,
        max_value=1,
        error_messages=dict.fromkeys(
            ("invalid", "min_value", "max_value"), "The minimum score must be a number from -1 to 1."
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

    def clean_folder(self) -> str:
        return str(self.cleaned_data["folder"]).strip("/")

    def clean_top(self) -> int:
        return min(self.cleaned_data["top"] or DEFAULT_TOP, MAX_TOP_K)


@dataclass(frozen=True, slots=True)
class Query:
    """A search that somebody asks for. One of image and like, or neither."""

    image: Any = None  # an uploaded file
    like: str = ""  # the id of one of the company's pictures
    folder: str = ""
    min_score: float | None = None
    top: int = DEFAULT_TOP

    @property
    def filters(self) -> Filters:
        return Filters(location=self.folder, min_score=self.min_score)

    def url_parameters(self, **changes: Any) -> str:
        """Return what follows the page's address when this is asked with changes; an upload stands in no URL."""
        values = {"like": self.like, "folder": self.folder, "min_score": self.min_score, "top": self.top} | changes
        if values["top"] == DEFAULT_TOP:
            del values["top"]
        given = {name: value for name, value in values.items() if value not in (None, "")}
        return urlencode(given, errors="replace")  # a name that is no UTF-8 is not found again, and breaks no page
