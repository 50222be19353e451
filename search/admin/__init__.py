"""Importing this registers the admin's pages; Django does it at start."""

from search.admin import builds as builds
from search.admin import companies as companies
