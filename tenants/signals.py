from django.dispatch import Signal

# Sent inside the transaction that queues a build, with build=IndexBuild; search hands it to the workers.
build_queued = Signal()
