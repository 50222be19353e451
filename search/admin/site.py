"""What all pages of the admin share: their titles, style sheet and script."""

from django.contrib import admin
from django.forms.widgets import Script

admin.site.site_header = admin.site.site_title = "Image search"
admin.site.index_title = "Companies and their indexes"


class Assets:
    css = {"all": ["search/admin.css"]}
    js = [Script("search/admin.js", defer=True)]
