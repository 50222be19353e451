from django.urls import path

from search.web.search_page import SearchPage, choose_company

urlpatterns = [
    path("search/", choose_company, name="search"),
    path("search/<str:company>/", SearchPage.as_view(), name="search-page"),
]
