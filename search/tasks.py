"""What the workers carry out."""

from django_tasks import task

from search.builds import run_build
from tenants.models import IndexBuild


@task()
def carry_out_build(build_id: int) -> None:
    """Run a queued build; one that somebody else has claimed, or that is gone, is left alone."""
    build = IndexBuild.objects.select_related("company").filter(pk=build_id).first()
    if build is not None and build.start():
        run_build(build)
