from django.db import models


class AuditEvent(models.Model):
    """Who did what to which company. Rows are added by tenants.audit.record and never changed.

    Everything is text, so that it outlives users, keys and companies.
    """

    class Channel(models.TextChoices):
        ADMIN = "admin", "admin"
        BASIC = "basic", "HTTP Basic"
        KEY = "key", "API key"
        COMMAND = "command", "command line"

    class Action(models.TextChoices):
        COMPANY_MADE = "company made"
        COMPANY_CHANGED = "company changed"
        COMPANY_DELETED = "company deleted"
        PICTURE_PUT = "picture put"
        PICTURE_DELETED = "picture deleted"
        PICTURES_UPLOADED = "pictures uploaded"
        BUILD_ASKED = "build asked for"
        BUILD_CANCELLED = "build cancelled"
        COMPANY_EXPORTED = "company exported"
        INDEX_IMPORTED = "index imported"
        INDEX_ROLLED_BACK = "index rolled back"
        KEY_MADE = "key made"
        KEY_REVOKED = "key revoked"

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.CharField(max_length=200, help_text="A user's name, a key's prefix and name, or a system user.")
    channel = models.CharField(max_length=10, choices=Channel.choices)
    action = models.CharField(max_length=20, help_text="One of Action's.")
    company = models.CharField(max_length=64, db_index=True)
    company_key = models.BigIntegerField(
        null=True,
        default=None,
        db_default=None,
        db_index=True,
        help_text="The company's primary key: one made anew under an old name is another.",
    )
    detail = models.TextField(blank=True)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.actor}: {self.company}, {self.action}"
