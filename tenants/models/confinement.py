from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import models


class Confinement(models.Model):
    """Confines a staff user to some companies: whatever the user's permissions allow, they allow it for those alone.

    Without companies the user sees none: a company's deletion never widens what a user may see.
    """

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="confinement")
    companies = models.ManyToManyField(
        "tenants.Company",
        blank=True,
        related_name="confinements",
        help_text="The only companies that this user can see. None chosen: the user sees no company.",
    )

    def __str__(self) -> str:
        return f"{self.user} is confined to companies"


def is_confined(user: User | AnonymousUser | None) -> bool:
    """Return whether the user may see some companies only; superusers see all, whatever is listed for them.

    Asked of the database once for each instance of a user, which lives as long as a request.
    """
    return bool(user and not user.is_superuser and getattr(user, "confinement", None))
