"""The rows. company imports its builds, keys and usage; they refer to it by a string, so there is no import circle."""

from tenants.models.audit import AuditEvent
from tenants.models.builds import BuildRunning, IndexBuild, SkippedImage
from tenants.models.company import NAME_PATTERN, Company, CompanyQuerySet
from tenants.models.confinement import Confinement, is_confined
from tenants.models.duplicates import DuplicateSearch, NotDuplicates
from tenants.models.jobs import Job, JobCancelled
from tenants.models.keys import ApiKey, ApiKeyQuerySet
from tenants.models.leases import JobStopped, Leased, LeaseLost
from tenants.models.live_changes import LiveChange, LiveChangeQuerySet
from tenants.models.searches import DailySearches, SearchChannel, SearchOutcome
from tenants.models.secret_key import SecretKeyDigest
from tenants.models.units import BuildUnit, UnitLost
from tenants.models.usage import SearchUsage
from tenants.models.watch import Alert, Watch

__all__ = [
    "NAME_PATTERN",
    "Alert",
    "ApiKey",
    "ApiKeyQuerySet",
    "AuditEvent",
    "BuildRunning",
    "BuildUnit",
    "Company",
    "CompanyQuerySet",
    "Confinement",
    "DailySearches",
    "DuplicateSearch",
    "IndexBuild",
    "Job",
    "JobCancelled",
    "JobStopped",
    "LeaseLost",
    "Leased",
    "LiveChange",
    "LiveChangeQuerySet",
    "NotDuplicates",
    "SearchChannel",
    "SearchOutcome",
    "SearchUsage",
    "SecretKeyDigest",
    "SkippedImage",
    "UnitLost",
    "Watch",
    "is_confined",
]
