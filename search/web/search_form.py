"""What the search page is asked: its form, and the address under which the same is asked again."""

from dataclasses import astuple, dataclass
from typing import Any
from urllib.parse import urlencode

from django import forms

from search.engine.errors import CropRefused
from search.engine.pictures.crop import Crop
from search.engine.pictures.paths import ALLOWED_EXTENSIONS, has_allowed_extension
from search.queries import MAX_LIKE, MAX_PICTURES, MAX_TOP_K, Filters

DEFAULT_TOP = 20
DUPLICATES = "duplicates"  # the one thing that can be collapsed

_NOT_ALLOWED = f"This type of file can't be searched with. Use one of {', '.join(ALLOWED_EXTENSIONS)}."
_NO_CROP = (
    "The part of the picture must be four numbers from 0 to 1, left, top, width and height, inside the picture: "
    "0.25,0.1,0.5,0.4."
)


class RepeatedField(forms.Field):
    """All that was sent under one name, each of it as another field takes it."""

    widget = forms.MultipleHiddenInput

    def __init__(self, each: forms.Field, *, most: int, too_many: str, **options: Any) -> None:
        super().__init__(required=False, **options)
        self.each, self.most, self.too_many = each, most, too_many

    def clean(self, value: Any) -> tuple[Any, ...]:
        cleaned = tuple(dict.fromkeys(filter(None, map(self.each.clean, value or ()))))
        if len(cleaned) > self.most:
            raise forms.ValidationError(self.too_many)
        return cleaned


class _FilesInput(forms.FileInput):
    allow_multiple_selected = True

    def value_from_datadict(self, data: Any, files: Any, name: str) -> Any:
        return files.getlist(name) if files else ()


def _ids_field() -> RepeatedField:
    each = forms.CharField(required=False, max_length=100)
    return RepeatedField(each, most=MAX_LIKE, too_many=f"At most {MAX_LIKE} pictures can be chosen at a time.")


class SearchForm(forms.Form):
    """What is asked: pictures, or the ids of some, and which results are wanted."""

    image = RepeatedField(
        forms.FileField(
            required=False,
            max_length=1000,
            error_messages={"empty": "The picture is empty. Choose another one."},
        ),
        most=MAX_PICTURES,
        too_many=f"At most {MAX_PICTURES} pictures can be searched with at a time. Choose fewer.",
        widget=_FilesInput,
    )
    like = _ids_field()
    unlike = _ids_field()
    tick = _ids_field()  # results that are to join those; without script
    ticked = forms.CharField(required=False, max_length=10)  # which of the two
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
    collapse = forms.ChoiceField(required=False, choices=[(DUPLICATES, "Leave out duplicates")])
    top = forms.IntegerField(
        required=False,
        min_value=1,
        error_messages=dict.fromkeys(("invalid", "min_value"), "The number of results must be at least 1."),
    )

    def clean_image(self) -> Any:
        images = self.cleaned_data["image"]
        if not all(has_allowed_extension(image.name) for image in images):
            raise forms.ValidationError(_NOT_ALLOWED)
        return images

    def clean_crop(self) -> Crop | None:
        text = "".join(self.cleaned_data["crop"].split())
        try:
            return Crop.parse(text) if text else None
        except CropRefused as error:
            raise forms.ValidationError(_NO_CROP) from error

    def clean_folder(self) -> str:
        return str(self.cleaned_data["folder"]).strip("/")

    def clean_collapse(self) -> bool:
        return self.cleaned_data["collapse"] == DUPLICATES

    def clean_top(self) -> int:
        return min(self.cleaned_data["top"] or DEFAULT_TOP, MAX_TOP_K)

    @property
    def query(self) -> "Query":
        """What is asked, of a form that is valid."""
        fields = dict(self.cleaned_data)
        ticks, where = fields.pop("tick"), fields.pop("ticked")
        if ticks:
            name = "unlike" if where == "unlike" else "like"
            fields[name] = tuple(dict.fromkeys([*fields[name], *ticks]))
        return Query(**fields)


@dataclass(frozen=True, slots=True)
class Query:
    """A search that somebody asks for: with images, or with like and unlike, or with nothing yet."""

    image: tuple[Any, ...] = ()  # uploaded files
    like: tuple[str, ...] = ()  # ids of the company's pictures
    unlike: tuple[str, ...] = ()
    crop: Crop | None = None  # the part of the only picture that counts
    folder: str = ""
    min_score: float | None = None
    min_match: float | None = None
    collapse: bool = False  # of each group of duplicates only the best result
    top: int = DEFAULT_TOP

    @property
    def filters(self) -> Filters:
        return Filters(location=self.folder, min_score=self.min_score, min_match=self.min_match, collapse=self.collapse)

    @property
    def is_of_one_picture(self) -> bool:
        return len(self.image or (*self.like, *self.unlike)) == 1

    @property
    def is_asked(self) -> bool:
        return bool(self.image or self.like)

    @property
    def wanted(self) -> dict[str, str]:
        """The fields beside the pictures, as text: "" where nothing is wanted."""
        return {
            "crop": ",".join(map(_plain, astuple(self.crop))) if self.crop else "",
            "folder": self.folder,
            "min_match": _plain(self.min_match),
            "min_score": _plain(self.min_score),
            "collapse": DUPLICATES if self.collapse else "",
            "top": str(self.top),
        }

    def url_parameters(self, **changes: Any) -> str:
        """Return what follows the page's address when this is asked with changes; an upload stands in no URL."""
        values = {"like": self.like, "unlike": self.unlike} | self.wanted | changes
        if values["top"] == str(DEFAULT_TOP):
            del values["top"]
        given = {name: value for name, value in values.items() if value}
        # A name that is no UTF-8 is not found again, and breaks no page.
        return urlencode(given, doseq=True, safe=",", errors="replace")

    def parameters_without(self, image_id: str) -> str:
        """Return the same without one of the company's pictures."""
        like, unlike = (tuple(each for each in ids if each != image_id) for ids in (self.like, self.unlike))
        return self.url_parameters(like=like, unlike=unlike, crop="")


def _plain(number: float | None) -> str:
    """Return a number without an exponent, "" for none."""
    return "" if number is None else f"{number:.9f}".rstrip("0").rstrip(".")
