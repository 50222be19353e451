from django.db import connection, models

from tenants.models.searches import today


class SearchUsageQuerySet(models.QuerySet["SearchUsage"]):
    def today(self) -> "SearchUsageQuerySet":
        return self.filter(day=today())

    def count_one(self, company: models.Model, *, quota: int) -> "SearchUsage | None":
        """Count one of the company's searches of today and return the row; None, where there are as many as quota.

        quota: at least 1. One statement, which the database carries out as a whole: among any number of processes
        exactly quota pass.
        """
        day, table = today(), connection.ops.quote_name(SearchUsage._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (company_id, day, searches) VALUES (%s, %s, 1) "  # noqa: S608
                f"ON CONFLICT (company_id, day) DO UPDATE SET searches = {table}.searches + 1 "
                f"WHERE {table}.searches < %s RETURNING searches",
                [company.pk, connection.ops.adapt_datefield_value(day), quota],
            )
            counted = cursor.fetchone()
        return SearchUsage(company_id=company.pk, day=day, searches=counted[0]) if counted else None

    def give_back(self, usage: "SearchUsage") -> None:
        """Take back one of the searches that were counted in this row."""
        self.filter(company=usage.company_id, day=usage.day, searches__gt=0).update(searches=models.F("searches") - 1)


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
