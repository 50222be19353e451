from django.contrib import admin
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

from search.api.views.metrics import metrics
from search.web.front_door import front_door

urlpatterns = [
    path("", front_door, name="front-door"),
    path("favicon.ico", RedirectView.as_view(url=static("search/favicon.svg"))),
    path("", include("search.web.urls")),
    path("api/", include("search.api.urls")),
    path("metrics", metrics),
    path("admin/", admin.site.urls),
]

handler400 = "search.http.errors.bad_request"
handler404 = "search.http.errors.not_found"
handler500 = "search.http.errors.server_error"
