"""The search page of a company: a picture is posted to the page's own address, or one of its own is named in the URL.

A script gets the parts of the page that change as JSON; without one the page works as a plain form.
"""

import contextlib
from dataclasses import dataclass
from html import unescape
from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.cache import patch_cache_control, patch_vary_headers
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from search import queries
from search.engine.errors import EngineError, IndexNotBuilt
from search.engine.index.folders import Folder
from search.engine.index.match import Match
from search.engine.index.records import ImageRecord
from search.http.access import viewer_of
from search.http.bodies import ImageFormParser
from search.http.counted import CountedSearchView
from search.http.errors import answer_to
from search.http.limits import QUOTA_REMAINING, counted_search
from search.http.signed_urls import Viewer, picture_urls
from search.queries import MAX_LIKE, MAX_PICTURES, CompanyNotFound, Found, ImageNotFound, QueryPicture
from search.web.curl import search_command, similar_command
from search.web.search_form import Query, SearchForm
from search.web.visitors import OwnSession, searchable_by
from search.web.words import plain_words
from tenants.models import Company, SearchChannel

TOPS = (10, 20, 30, 50)
EXAMPLES = 12  # pictures to begin with
MAX_FOLDERS = 500  # in the list to choose from

_API_NAMES = {"folder": "location", "top": "top_k"}  # where the API calls a field otherwise


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as the page shows it. url and thumbnail_url open it for this visitor alone, for an hour or two."""

    record: ImageRecord
    url: str
    thumbnail_url: str
    like_url: str  # the page's, with the search for what is like this picture
    folder_url: str  # the page's, with the same search in this picture's folder
    match: Match | None = None  # where it is a result

    @property
    def bar(self) -> int:
        """The length of a result's bar, 0 to 100: its match where that is known."""
        if self.match is None:
            return 0
        return round(100 * max(0.0, self.match.score) if self.match.percent is None else self.match.percent)

    @property
    def match_words(self) -> str:
        percent = self.match.percent if self.match else None
        if percent is None:
            return ""
        return "under 1 %" if percent < 0.5 else f"{percent:.0f} %"


@dataclass(frozen=True, slots=True)
class AskedPicture:
    """One of several pictures of the company that are searched with."""

    id: str
    shown: Shown | None  # None: it is gone
    without_url: str  # the page's, with the same search without it; "" where nothing would be left to search with


@never_cache
@require_safe
def choose_company(request: HttpRequest) -> HttpResponse:
    """Show the companies that can be searched, or the only one's page."""
    companies = list(searchable_by(request.user))
    if not companies and not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path(), reverse("admin:login"))
    if len(companies) == 1:
        return redirect("search-page", companies[0].name)
    return render(request, "search/companies.html", {"companies": companies})


@extend_schema(exclude=True)
class SearchPage(CountedSearchView):
    """Accepts what the API accepts, by its parser, rates and table of errors, from sessions in place of keys."""

    authentication_classes = [OwnSession]
    parser_classes = [ImageFormParser]
    http_method_names = ["get", "head", "post"]
    channel = SearchChannel.PAGE
    company: Company
    viewer: Viewer
    query = Query()
    remaining: int | None = None  # searches today, where there is a quota

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.company = queries.find_company(kwargs["company"], among=searchable_by(request.user))
        if request.method == "POST" or {"like", "tick"} & request.query_params.keys() == {"like"}:
            self.searched = self.company
        self.viewer = viewer_of(request, self.company)
        super().initial(request, *args, **kwargs)

    def get(self, request: Request, company: str) -> HttpResponse:
        form = SearchForm(request.query_params)
        if "tick" in request.query_params and form.is_valid():  # its own address, which can be shared, has none
            return redirect(f"{request.path}?{form.query.url_parameters()}")
        return self._answered(form)

    def post(self, request: Request, company: str) -> HttpResponse:
        OwnSession().enforce_csrf(request)
        return self._answered(SearchForm(request.POST, request.FILES))

    def handle_exception(self, error: Exception) -> Any:
        if isinstance(error, CompanyNotFound):
            return self._no_company()
        answer = answer_to(error)
        if answer is None:
            raise error
        message = answer.body["error"]
        problem = plain_words(answer.body["code"], message, retry_after=answer.headers.get("Retry-After", ""))
        detail = "" if problem == f"{message}." else message
        return self._page(problem=problem, detail=detail, status=answer.status, headers=answer.headers)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        patch_vary_headers(response, ["Accept", "Cookie"])  # the script's answer is no page to go back to
        patch_cache_control(response, private=True, no_store=True)
        if self.remaining is not None:
            response[QUOTA_REMAINING] = str(self.remaining)
        return super().finalize_response(request, response, *args, **kwargs)

    def _no_company(self) -> HttpResponseBase:
        """Answer alike whether there is no such company or the visitor must not know of it."""
        if self.request.user:
            raise Http404
        return redirect_to_login(self.request.path, reverse("admin:login"))

    def _answered(self, form: SearchForm) -> HttpResponse:
        if not form.is_valid():
            return self._page(status=400, problem=str(next(iter(form.errors.values()))[0]))
        self.query = query = form.query
        if query.crop and query.is_asked and not query.is_of_one_picture:
            return self._page(status=400, problem="Only of one picture can a part be searched with.")
        if query.is_asked:
            found = self._search(query)
            self.note_best(found.matches)
            return self._page(found=found)
        if self.request.method == "POST" or query.unlike:
            return self._page(status=400, problem="Choose a picture first.")
        return self._page()

    def _search(self, query: Query) -> Found:
        with counted_search(self.company) as remaining:
            wanted: Any = {"crop": query.crop, "top_k": query.top, "filters": query.filters}
            if query.image:
                pictures = [QueryPicture(image, image.name) for image in query.image]
                found = queries.search(self.company, pictures, **wanted)
            else:
                found = queries.search_like(self.company, query.like, unlike=query.unlike, **wanted)
        self.remaining = remaining
        return found

    def _page(
        self,
        *,
        found: Found | None = None,
        problem: str = "",
        detail: str = "",
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> HttpResponse:
        """Return the page, or for its script the parts of it that change. detail: of a problem, for staff."""
        results = None if found is None else [self._shown(match.image, match) for match in found.matches]
        context: dict[str, Any] = {
            "company": self.company,
            "query": self.query,
            **self._asked(),
            "results": results,
            "has_match": bool(results and results[0].match_words),
            "nothing_similar": found and found.nothing_similar,
            "without_effect": found.without_effect if found else (),
            "problem": problem,
            "detail": detail if self.viewer.user else "",
            "command": self._command() if results is not None else "",
            "needs_key": self._needs_key(),
            "is_staff": bool(self.viewer.user),
        }
        request = self.request._request
        if request.headers.get("Accept") == "application/json":
            return self._parts(context, status, headers)
        try:
            context |= self._beside(results)
        except EngineError as error:
            if not problem and not isinstance(error, IndexNotBuilt):
                return self.handle_exception(error)
        context |= {
            "tops": sorted({*TOPS, self.query.top}),
            "has_others": searchable_by(request.user).count() > 1,
            "max_bytes": settings.MAX_UPLOAD_BYTES,
            "max_pictures": MAX_PICTURES,
            "max_like": MAX_LIKE,
        }
        html = render_to_string("search/search_page.html", context, request)
        return HttpResponse(html, status=status, headers=headers)

    def _beside(self, results: list[Shown] | None) -> dict[str, Any]:
        """Return what stays beside the results, and the pictures to begin with where there are none."""
        examples = [] if results is not None else queries.some_pictures(self.company, EXAMPLES)
        return {"folders": self._folders(), "examples": [self._shown(record) for record in examples]}

    def _parts(self, context: dict[str, Any], status: int, headers: dict[str, str] | None) -> HttpResponse:
        parts = {
            "results": render_to_string("search/_results.html", context),
            "query": render_to_string("search/_query.html", context),
            "said": unescape(render_to_string("search/_said.txt", context)).strip(),  # shown as text
        }
        return JsonResponse(parts, status=status, headers=headers)

    def _asked(self) -> dict[str, Any]:
        """Return the pictures of the company that are searched with: one large, several small."""
        query = self.query
        if query.image or not query.like:
            return {}
        if query.is_of_one_picture:
            return {"query_picture": self._asked_picture(query.like[0], size=640).shown}
        return {"liked": [*map(self._asked_picture, query.like)], "unliked": [*map(self._asked_picture, query.unlike)]}

    def _asked_picture(self, image_id: str, *, size: int = 160) -> AskedPicture:
        shown = None
        with contextlib.suppress(EngineError, ImageNotFound):
            shown = self._shown(queries.find_picture(self.company, image_id), size=size)
        is_last = self.query.like == (image_id,)
        return AskedPicture(image_id, shown, "" if is_last else f"?{self.query.parameters_without(image_id)}")

    def _folders(self) -> list[Folder]:
        """Return the folders to choose from, the chosen one among them."""
        folders = queries.company_folders(self.company)[1 : MAX_FOLDERS + 1]
        chosen = self.query.folder
        is_listed = not chosen or any(folder.location == chosen for folder in folders)
        return folders if is_listed else [Folder(chosen, pictures=0, below=0), *folders]

    def _shown(self, record: ImageRecord, match: Match | None = None, *, size: int = 320) -> Shown:
        urls = picture_urls(self.company, record.id, viewer=self.viewer, size=size)
        like = self.query.url_parameters(like=record.id, unlike=(), crop="")
        folder = self.query.url_parameters(folder=record.location)
        return Shown(record, urls.url, urls.thumbnail_url, f"?{like}", f"?{folder}", match)

    def _needs_key(self) -> bool:
        """Tell whether the API asks for a key; where it does not, one that is wrong is refused all the same."""
        return self.company.requires_api_key or settings.API_KEYS == "required"

    def _command(self) -> str:
        query, address = self.query, self.request.build_absolute_uri(f"/api/search/{self.company}")
        parameters = {_API_NAMES.get(name, name): value for name, value in query.wanted.items() if value}
        wanted: Any = {"parameters": parameters, "needs_key": self._needs_key()}
        if query.image:
            return search_command(address, image_names=[image.name for image in query.image], **wanted)
        if query.is_of_one_picture:
            return similar_command(f"{address}/{query.like[0]}", **wanted)
        wanted["parameters"] = {"like": query.like, "unlike": query.unlike} | parameters
        return similar_command(address, **wanted)
