"""What gunicorn serves."""

import re

from django.conf import settings

from imagesearch.wsgi import application as wsgi_application
from search.http.asgi.application import BufferedApplication
from search.http.read_only import is_refused

application = BufferedApplication(
    wsgi_application,
    threads=settings.WEB_THREADS,
    max_body=settings.MAX_BODY_BYTES,
    large_bodies=re.compile(r"/admin/tenants/company/\d+/upload/"),  # of staff, whose zips are large
    is_refused=is_refused,
)
