"""Titles, style sheet and script shared by all admin pages."""

from django.contrib import admin
from django.forms.widgets import Script

admin.site.site_header = admin.site.site_title = "Image search"
admin.site.index_title = "Companies and their indexes"


class Assets:
    css = {"all": ["search/admin.css"]}
    js = [Script("search/admin.js", defer=True)]
