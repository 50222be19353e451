#!/usr/bin/env python
import atexit
import gc
import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "imagesearch.settings")
    # Else Python searches all that was imported for garbage before it ends: a fifth of what a short command takes.
    atexit.register(gc.freeze)
    execute_from_command_line(sys.argv)
