"""gunicorn --config imagesearch/gunicorn_conf.py imagesearch.wsgi"""

from imagesearch import settings

bind = f"0.0.0.0:{settings.PORT}"
worker_class = "gthread"
workers = settings.WEB_PROCESSES
threads = settings.WEB_THREADS
# Loaded after the fork: a fork after a threaded FAISS or torch call hangs the child.
preload_app = False
timeout = 120  # seconds; the first search of a process may have to load torch
graceful_timeout = 10
control_socket_disable = True  # two servers of one user would share its path
