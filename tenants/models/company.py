import re
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import IntegrityError, models, transaction
from django.db.models.functions import Greatest, Lower

from tenants.models.audit import Actor, AuditEvent, record
from tenants.models.builds import BuildRunning, IndexBuild
from tenants.models.confinement import Confinement
from tenants.models.keys import ApiKey
from tenants.models.stored_folders import is_below, is_stored, overlap, problem_of

# A folder's name and a URL's segment on every system: no separator, no leading dot, nothing to escape.
NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")


class CompanyQuerySet(models.QuerySet["Company"]):
    def active(self) -> "CompanyQuerySet":
        return self.filter(active=True)

    def visible_to(self, user: User | AnonymousUser | None) -> "CompanyQuerySet":
        """Those that a user may view: active staff with the permission to, and of the confined only what is listed."""
        if not (user and user.is_active and user.is_staff and user.has_perm("tenants.view_company")):
            return self.none()
        return self.within_confinement_of(user)

    def within_confinement_of(self, user: User | AnonymousUser | None) -> "CompanyQuerySet":
        """Those that the user may be told of, if the user's permissions allow it: all, or what is listed for the user.

        One condition in SQL, so that a hidden company takes as long to find as an unknown one.
        """
        if user is None or user.is_anonymous or user.is_superuser:
            return self
        confinement = Confinement.objects.filter(user=user.pk)
        listed = confinement.filter(companies=models.OuterRef("pk"))
        return self.filter(~models.Exists(confinement) | models.Exists(listed))

    def forget_stored(self) -> None:
        """Have what lies in their folders counted again."""
        self.exclude(stored_pictures=None).update(stored_pictures=None, stored_bytes=None)

    def switch_generation(self, made_from: str | None, generation: str | None, **model: str | None) -> bool:
        """Switch searches to another generation unless made_from has been replaced meanwhile; return whether it did.

        model: the columns of the model that change with it. search.publication alone calls this.
        """
        return bool(self.filter(generation=made_from).update(generation=generation, **model))

    def switch_engine(self, generation: str, engine: str) -> bool:
        """Have another engine search this generation, unless another serves by now; return whether it does.

        search.companies.engines alone calls this.
        """
        return bool(self.filter(generation=generation).update(engine=engine))


class Company(models.Model):
    """One customer: its pictures in image_folder, its index in embeddings/<name>."""

    class Engine(models.TextChoices):
        """What searches a company's index. Its files are the truth in any case."""

        LOCAL = "local", "this service"
        MOVING = "moving", "this service, soon Milvus"  # publications make collections, too, and nobody searches them
        MILVUS = "milvus", "Milvus"

    name = models.CharField(
        max_length=64,
        validators=[
            RegexValidator(
                re.compile(rf"\A{NAME_PATTERN.pattern}\Z"),
                "A company name has 1 to 64 letters, digits, '-', '_' or '.', "
                "starts with a letter or digit and does not end with a dot.",
            )
        ],
        help_text="Used in folder names and URLs; cannot be changed later.",
    )
    active = models.BooleanField(
        default=True, help_text="Inactive companies can't be searched; the API answers 'not found'."
    )
    image_folder = models.CharField(
        max_length=1000,
        blank=True,
        help_text="Folder with the company's pictures. Empty: the folder with its name in the media directory.",
    )
    requires_api_key = models.BooleanField(
        default=False,
        verbose_name="requires an API key",
        help_text="Without a key of this company the API answers 'not found', even if IMAGESEARCH_API_KEYS is off.",
    )
    daily_quota = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Maximum searches per day (UTC). Empty: no limit.",
    )
    max_pictures = models.PositiveIntegerField(
        null=True,
        blank=True,
        default=None,
        db_default=None,
        validators=[MinValueValidator(1)],
        help_text="Maximum pictures in the folder that the API adds to. Uploads here may exceed it. Empty: no limit.",
    )
    max_bytes = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        default=None,
        db_default=None,
        validators=[MinValueValidator(1)],
        help_text="Maximum bytes of pictures in the folder that the API adds to. Empty: no limit.",
    )
    public_page = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Everybody can open the company's search page and see its pictures, without a login or a key.",
    )
    prefetch = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Every machine fetches the company's new indexes from the object store before anybody searches them.",
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    live_sequence = models.PositiveBigIntegerField(default=0, editable=False)
    # Columns that came later have a database default, so that code from before them can go on adding rows.
    generation = models.CharField(  # noqa: DJ001, NULL is another thing than any text: see search/publication.py
        max_length=64,
        null=True,
        default=None,
        db_default=None,
        editable=False,
        help_text="The generation of the index that searches use.",
    )
    live_floor = models.PositiveBigIntegerField(
        default=0,
        editable=False,
        db_default=0,
        help_text="Live changes up to this one are in every index that is kept and have been deleted here.",
    )
    engine = models.CharField(
        max_length=10,
        choices=Engine.choices,
        default=Engine.LOCAL,
        db_default=Engine.LOCAL.value,
        editable=False,
        help_text="What searches the index: this service, or Milvus.",
    )
    candidate = models.CharField(  # noqa: DJ001, NULL like generation
        max_length=64,
        null=True,
        default=None,
        db_default=None,
        editable=False,
        help_text="A generation made with another model than the one that searches use; it waits to be used.",
    )
    own_model = models.CharField(
        max_length=64,
        default="",
        db_default="",
        editable=False,
        help_text="Fingerprint of the model that builds use instead of the configured one.",
    )
    model_before = models.CharField(
        max_length=64,
        default="",
        db_default="",
        editable=False,
        help_text="Fingerprint of the model that searches used before the last change of the model.",
    )
    fold_planned_at = models.DateTimeField(
        null=True,
        default=None,
        db_default=None,
        editable=False,
        help_text="When a task checks whether the live changes should be merged into the index.",
    )

    stored_pictures = models.PositiveBigIntegerField(
        null=True,
        default=None,
        db_default=None,
        editable=False,
        help_text="Pictures in the folder. Empty: to be counted, because others may have written to it.",
    )
    stored_bytes = models.PositiveBigIntegerField(null=True, default=None, db_default=None, editable=False)

    PROTECTION = ("active", "requires_api_key", "daily_quota")  # what company.json keeps beside the index

    objects = CompanyQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "companies"
        constraints = [
            # Not told apart by case, because some file systems do not either.
            models.UniqueConstraint(
                Lower("name"), name="company_name_unique", violation_error_message="This name is taken."
            )
        ]
        permissions = [("reindex_company", "Can start and cancel index builds")]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **options: Any) -> None:
        """Save what people set. Of a row that exists, what searches and builds count on stays as the database has it:
        a page that somebody has left open knows an old state of that.
        """
        if not self._state.adding and options.get("update_fields") is None:
            options["update_fields"] = [
                field.name for field in self._meta.concrete_fields if field.editable and not field.primary_key
            ]
        super().save(*args, **options)

    def clean(self) -> None:
        super().clean()
        if self.has_stored_pictures:
            self._clean_stored_folder()
        else:
            self._clean_folder()
        if self._has_new_folder() and (problem := self.folder_problem()):
            raise ValidationError({"image_folder": f"{problem} Choose another folder."})

    def _clean_stored_folder(self) -> None:
        if problem := problem_of(self.image_folder):
            raise ValidationError({"image_folder": problem})
        if not any(is_below(self.image_folder, root) for root in settings.IMAGE_STORES):
            allowed = ", ".join(settings.IMAGE_STORES) or "there are none"
            raise ValidationError(
                {
                    "image_folder": f"{self.image_folder} is outside the allowed folders in stores ({allowed}): "
                    "see IMAGESEARCH_IMAGE_ROOTS."
                }
            )
        if any(is_below(root, self.image_folder) for root in settings.IMAGE_STORES):
            raise ValidationError(
                {"image_folder": f"{self.image_folder} contains all companies' pictures: choose a folder below it."}
            )

    def _clean_folder(self) -> None:
        media = Path(settings.MEDIA_ROOT).resolve()
        roots = [media, *(root.resolve() for root in settings.IMAGE_ROOTS)]
        try:
            folder = self.image_directory.resolve()
        except (ValueError, RuntimeError) as error:  # a NUL, links in a circle
            raise ValidationError({"image_folder": f"{self.image_directory} is not a folder: {error}."}) from error
        if folder == media:
            raise ValidationError(
                {"image_folder": f"{folder} contains all companies' pictures: choose a folder below it."}
            )
        if not any(folder.is_relative_to(root) for root in roots):
            allowed = ", ".join(str(root) for root in roots)
            raise ValidationError(
                {"image_folder": f"{folder} is outside the allowed folders ({allowed}): see IMAGESEARCH_IMAGE_ROOTS."}
            )

    def _has_new_folder(self) -> bool:
        """Return whether somebody sets or changes the folder: where it is as it was, other edits are not barred."""
        before = Company.objects.filter(pk=self.pk).values_list("image_folder", flat=True).first()
        return self._state.adding or before != self.image_folder

    def folder_problem(self, *, naming: bool = True) -> str:
        """Return in a sentence why no company should have this folder, "" where nothing speaks against it.

        naming: whether another company may be named.
        """
        others = [
            other
            for other in Company.objects.exclude(pk=self.pk).only("name", "image_folder")
            if other.has_stored_pictures == self.has_stored_pictures
        ]
        if self.has_stored_pictures:
            return self._stored_folder_problem(others, naming)
        folder = _resolved(self.image_directory)
        roots = map(_resolved, (Path(settings.MEDIA_ROOT), *settings.IMAGE_ROOTS))
        below = [folder.relative_to(root).parts for root in roots if folder.is_relative_to(root)]
        if any(part.startswith(".") for part in min(below, key=len, default=())):
            return f"{folder} is hidden: names of folders must not start with a dot."
        if _overlap(folder, _resolved(Path(settings.INDEX_DIR))):
            return f"{folder} and the folder of the indexes, {settings.INDEX_DIR}, overlap."
        for other in others:
            if _overlap(folder, _resolved(other.image_directory)):
                return _overlaps(str(folder), other, naming)
        return ""

    def _stored_folder_problem(self, others: "list[Company]", naming: bool) -> str:
        if settings.STORE and overlap(self.image_folder, settings.STORE):
            return f"{self.image_folder} and the folder of the indexes, {settings.STORE}, overlap."
        for other in others:
            if overlap(self.image_folder, other.image_folder):
                return _overlaps(self.image_folder, other, naming)
        return ""

    def add(self, *, by: Actor | None, detail: str = "") -> None:
        """Save a new company."""
        with transaction.atomic():
            self.save(force_insert=True)
            record(by, AuditEvent.Action.COMPANY_MADE, self, detail)

    def change(self, *, by: Actor | None, detail: str) -> None:
        """Save what somebody has set. detail: what that was."""
        with transaction.atomic():
            self.save()
            Company.objects.filter(pk=self.pk).forget_stored()  # the folder may be another
            record(by, AuditEvent.Action.COMPANY_CHANGED, self, detail)

    @property
    def limits_storage(self) -> bool:
        return self.max_pictures is not None or self.max_bytes is not None

    @property
    def has_stored_pictures(self) -> bool:
        """Whether its pictures lie in an object store, not in a folder on a disk."""
        return is_stored(self.image_folder)

    @property
    def image_place(self) -> str:
        """Where its pictures lie: the path of image_directory, or a URL, s3://bucket/prefix. See search/folders.py."""
        return self.image_folder if self.has_stored_pictures else str(self.image_directory)

    @property
    def image_directory(self) -> Path:
        """The folder with its pictures; a relative image_folder is below the media directory. A disk's only."""
        if self.has_stored_pictures:
            raise ValueError(f"The pictures of {self} lie in {self.image_folder}, on no disk")
        return Path(settings.MEDIA_ROOT) / (self.image_folder or self.name)

    @property
    def embeddings_directory(self) -> Path:
        return Path(settings.INDEX_DIR) / self.name

    def queue_build(
        self,
        *,
        full: bool = False,
        checksum: bool = False,
        allow_empty: bool = False,
        switch: bool = False,
        fold: bool = False,
        by: Actor | None = None,
    ) -> IndexBuild:
        """Return the company's queued build: a new one, or the active one, which does more if it still can.

        Asked for while one runs, another follows it, because what has changed since may be missing from it.
        full: process all pictures. checksum: compare contents where size and time say unchanged.
        allow_empty: an empty folder empties the index. switch: its model is used at once, also where a person would
        choose that. fold: only make the live changes part of the index.
        Raises Company.DoesNotExist where it was deleted meanwhile.
        """
        wishes = {"full": full, "checksum": checksum, "allow_empty": allow_empty, "switch": switch}
        while True:
            try:
                with transaction.atomic():
                    user = by.user if by else None
                    build = IndexBuild.objects.queue(company=self, fold=fold, requested_by=user, **wishes)
                    record(by, AuditEvent.Action.BUILD_ASKED, self, f"build {build.pk}: {build.description}")
                    return build
            except IntegrityError:  # the constraint: there is an active one, or there was
                active = self.builds.active().first()
                if active is None:  # it has just finished, unless the company was deleted
                    Company.objects.only("pk").get(pk=self.pk)
                elif fold or active.ask_for_more(by=by, **wishes):
                    return active

    def claim_build(
        self,
        *,
        full: bool = False,
        checksum: bool = False,
        allow_empty: bool = False,
        switch: bool = False,
        image_folder: str = "",
        by: Actor | None = None,
    ) -> IndexBuild:
        """Return the company's build for the caller to carry out; no worker sees it before it is the caller's.

        One that was waiting, or whose process was lost, is carried out as it was wished for, and more.
        image_folder: instead of the company's own. Raises BuildRunning.
        """
        with transaction.atomic():
            build = self._started_build()
            build.beat(
                full=build.full or full,
                checksum=build.checksum or checksum,
                allow_empty=build.allow_empty or allow_empty,
                switch=build.switch or switch,
                fold=False,
                image_folder=image_folder,
            )
            build.refresh_from_db()
            record(by, AuditEvent.Action.BUILD_ASKED, self, f"build {build.pk}: {build.description}")
        return build

    def _started_build(self) -> IndexBuild:
        for _ in range(2):
            build = self.queue_build()
            if build.start():
                return build
            if build.is_active:
                break  # else its processes were lost too often, and it has just been given up
        raise BuildRunning(
            f"A build of {self} is already running, since {build.started_at or build.queued_at:%Y-%m-%d %H:%M} UTC: "
            "see manage.py builds"
        )

    def issue_key(
        self, name: str, *, can_write: bool = False, expires: datetime | None = None, by: Actor | None = None
    ) -> tuple[ApiKey, str]:
        """Return a new key of the company and the text that its holder sends, which nobody can tell again.

        Raises ValidationError.
        """
        key = ApiKey(company=self, name=name, can_write=can_write, expires=expires)
        key.full_clean(exclude=["prefix", "digest"])
        return key, key.issue(by=by)

    @property
    def protection(self) -> dict[str, Any]:
        """What protects the company, as JSON can hold it."""
        return {name: getattr(self, name) for name in self.PROTECTION}

    def next_live_sequence(self, *, at_least: int) -> int:
        """Return the number of the next live change. Call it in a transaction: the row stays locked until its end.

        at_least: up to which change the index holds them; an index may be ahead of a database that was restored.
        """
        counted = Greatest(models.F("live_sequence"), models.Value(at_least))
        Company.objects.filter(pk=self.pk).update(live_sequence=counted + 1)
        self.refresh_from_db(fields=["live_sequence"])
        return self.live_sequence


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (ValueError, RuntimeError):  # a NUL, links in a circle
        return folder


def _overlaps(folder: str, other: Company, naming: bool) -> str:
    named = other if naming else "another company"
    return f"{folder} overlaps with the image folder of {named}: each could delete the other's pictures."


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
