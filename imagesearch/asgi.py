"""What gunicorn serves."""

import re

from django.conf import settings

from imagesearch.wsgi import application as wsgi_application
from search.http.asgi.application import BufferedApplication
from search.http.read_only import WRITING_METHODS

application = BufferedApplication(
    wsgi_application,
    threads=settings.WEB_THREADS,
    max_body=settings.MAX_BODY_BYTES,
    large_bodies=re.compile(r"/admin/tenants/company/\d+/upload/"),  # of staff, whose zips are large
    unread_methods=WRITING_METHODS if settings.READ_ONLY else frozenset(),
)
