"""Titles, style sheet and script shared by all admin pages."""

from django.apps import apps
from django.contrib import admin
from django.forms.widgets import Script
from django_tasks_db.models import DBTaskResult

admin.site.site_header = admin.site.site_title = "Image search"
admin.site.index_title = "Companies and their indexes"
admin.site.enable_nav_sidebar = False  # six links, which took a fifth of the width from every table
# After the companies, in everyday words; tasks are the service's own affair.
apps.get_app_config("auth").verbose_name = "Users and groups"
admin.site.unregister(DBTaskResult)


class Assets:
    css = {"all": ["search/admin.css"]}
    js = [Script(f"search/{name}.js", defer=True) for name in ("admin", "lists", "unsaved")]
