from django.dispatch import Signal

# Sent inside the transaction that queues a build, with build=IndexBuild; search hands it to the workers.
build_queued = Signal()

# Sent when a company may have live changes that its index lacks, with company=Company; search sees to a fold in time.
fold_wanted = Signal()

# Sent inside the transaction that queues a search for duplicates, with search=DuplicateSearch.
duplicate_search_queued = Signal()

# Sent when a build, a fold or a rollback has published an index of a company, with company=Company; what is new in it
# may have duplicates.
index_published = Signal()

# Sent when a build has units that other workers may embed.
help_wanted = Signal()
