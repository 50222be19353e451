from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="docs")),
    path("api/", include("search.urls")),
    path("admin/", admin.site.urls),
]

handler400 = "search.exceptions.bad_request"
handler404 = "search.exceptions.not_found"
handler500 = "search.exceptions.server_error"
