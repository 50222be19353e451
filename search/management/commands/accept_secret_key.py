from typing import Any

from search.management.operator_command import OperatorCommand
from tenants.models import ApiKey, SecretKeyDigest


class Command(OperatorCommand):
    help = "Go on with this machine's SECRET_KEY where the earlier one is lost: what was signed with that one ends."

    def handle(self, **options: Any) -> None:
        if SecretKeyDigest.objects.agrees(note=False):
            self.stdout.write("This machine's SECRET_KEY is that of the others already")
            return
        SecretKeyDigest.objects.accept()
        self.stdout.write(
            "This machine's SECRET_KEY counts from now on: give it to all machines. Logins have ended, and API keys "
            f"made with the earlier one are refused: make them anew ({ApiKey.objects.usable().count()} in all)"
        )
