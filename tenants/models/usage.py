from datetime import UTC, datetime

from django.db import connection, models


class SearchUsageQuerySet(models.QuerySet["SearchUsage"]):
    def today(self) -> "SearchUsageQuerySet":
        return self.filter(day=datetime.now(UTC).date())

    def count_one(self, company_id: int, *, quota: int) -> bool:
        """Count one of the company's searches of today unless there are as many as quota, at least 1, already.

        One statement, which the database carries out as a whole: among any number of processes exactly quota pass.
        """
        table = connection.ops.quote_name(SearchUsage._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (company_id, day, searches) VALUES (%s, %s, 1) "  # noqa: S608
                f"ON CONFLICT (company_id, day) DO UPDATE SET searches = {table}.searches + 1 "
                f"WHERE {table}.searches < %s RETURNING searches",
                [company_id, connection.ops.adapt_datefield_value(datetime.now(UTC).date()), quota],
            )
            return cursor.fetchone() is not None


class SearchUsage(models.Model):
    """How many searches of a day a company's quota was asked for."""

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="search_usage")
    day = models.DateField(help_text="UTC")
    searches = models.PositiveIntegerField()

    objects = SearchUsageQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["company", "day"], name="one_usage_per_company_and_day")]

    def __str__(self) -> str:
        return f"{self.company} {self.day}: {self.searches}"
