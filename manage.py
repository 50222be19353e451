#!/usr/bin/env python
import atexit
import gc
import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "imagesearch.settings")
    # Else Python searches all that was imported for garbage before it ends: a fifth of what a short command takes.
    # Not after a script in the shell, where files that it has left open may be garbage that is yet to be written.
    if "shell" not in sys.argv:
        atexit.register(gc.freeze)
    execute_from_command_line(sys.argv)
