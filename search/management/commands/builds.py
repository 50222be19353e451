from argparse import ArgumentParser
from typing import Any

from search.management.operator_command import OperatorCommand
from search.monitoring.durations import format_seconds
from tenants.models import IndexBuild


class Command(OperatorCommand):
    help = "List queued and running builds."
    only_reads = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--all", action="store_true", help="also list finished builds, newest first")

    def handle(self, **options: Any) -> None:
        builds = IndexBuild.objects.select_related("company")
        lines = [_line(build) for build in (builds if options["all"] else builds.active())]
        nothing = "There are no builds" if options["all"] else "No build is queued or running: --all lists earlier ones"
        self.stdout.write("\n".join(lines or [nothing]))


def _line(build: IndexBuild) -> str:
    text = (
        f"{build.pk:>6}  {build.company.name:<20}  {build.status:<9}  {build.queued_at:%Y-%m-%d %H:%M}  "
        f"{build.images_done}/{build.images_found} ({build.percent} %)"
    )
    if build.units_description:
        text += f"  {build.units_description}"
    if build.images_per_second and build.status == IndexBuild.Status.RUNNING:
        text += f"  {build.images_per_second:.1f} pictures/s"
    if build.seconds_left is not None:
        text += f"  {format_seconds(build.seconds_left)} left"
    return f"{text}  {build.error}".rstrip()
