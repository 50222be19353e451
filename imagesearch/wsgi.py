import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "imagesearch.settings")

application = get_wsgi_application()
call_command("check")  # a wrong setting stops the server here, with the way out, instead of failing requests
