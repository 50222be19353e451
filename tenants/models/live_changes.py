from django.db import models


class LiveChangeQuerySet(models.QuerySet["LiveChange"]):
    def missing_from(self, sequence: int) -> "LiveChangeQuerySet":
        """Those that an index lacks which holds the company's changes up to sequence."""
        return self.filter(sequence__gt=sequence)

    def lacking(self, fingerprint: str) -> "LiveChangeQuerySet":
        """Those of pictures that nobody has tried to embed with the model of this fingerprint."""
        return self.exclude(vector=None).exclude(fingerprint=fingerprint).exclude(second_fingerprint=fingerprint)


class LiveChange(models.Model):
    """A picture put or deleted since the company's index was built: every search lays these over the index.

    sequence counts the company's changes; an index says up to which one it holds them.
    """

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="live_changes")
    sequence = models.PositiveBigIntegerField()
    path = models.TextField()
    image_id = models.CharField(max_length=36)
    vector = models.BinaryField(null=True, help_text="float32 [960]; empty for a deleted picture.")
    fingerprint = models.CharField(max_length=64, blank=True, help_text="The model that made the vector.")
    second_vector = models.BinaryField(
        null=True, default=None, db_default=None, help_text="float32 [960] of the same picture, of another model."
    )
    second_fingerprint = models.CharField(
        max_length=64,
        blank=True,
        default="",
        db_default="",
        help_text="The model that made it; one without a vector could not read the picture.",
    )
    perceptual_hash = models.BinaryField(
        null=True, max_length=8, help_text="uint64, big-endian; empty where a release before put the picture."
    )
    changed_at = models.DateTimeField(auto_now=True)

    objects = LiveChangeQuerySet.as_manager()

    class Meta:
        ordering = ["sequence"]
        constraints = [
            models.UniqueConstraint(fields=["company", "path"], name="one_live_change_per_path"),
            models.UniqueConstraint(fields=["company", "sequence"], name="live_changes_are_numbered"),
        ]

    def __str__(self) -> str:
        return f"{self.company} {'put' if self.vector else 'deleted'} {self.path}"

    def vector_of(self, fingerprint: str | None) -> bytes | None:
        """Return the vector that the model of this fingerprint made; None: any. None where there is none."""
        if fingerprint in (None, self.fingerprint):
            vector = self.vector
        else:
            vector = self.second_vector if self.second_fingerprint == fingerprint else None
        return None if vector is None else bytes(vector)
