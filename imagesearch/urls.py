from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from search.metrics_views import metrics

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="docs")),
    path("api/", include("search.urls")),
    path("metrics", metrics),
    path("admin/", admin.site.urls),
]

handler400 = "search.exceptions.bad_request"
handler404 = "search.exceptions.not_found"
handler500 = "search.exceptions.server_error"
