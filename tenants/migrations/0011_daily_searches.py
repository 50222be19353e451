import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0010_public_page_and_confinement"),
    ]

    operations = [
        migrations.CreateModel(
            name="DailySearches",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("day", models.DateField(help_text="UTC")),
                (
                    "channel",
                    models.CharField(
                        choices=[("api", "API"), ("page", "search page"), ("admin", "admin")], max_length=5
                    ),
                ),
                ("key_prefix", models.CharField(blank=True, help_text="Empty: without a key.", max_length=12)),
                ("searches", models.PositiveIntegerField(default=0, help_text="Answered.")),
                ("without_result", models.PositiveIntegerField(default=0, help_text="Of those answered.")),
                ("errors", models.PositiveIntegerField(default=0)),
                ("refused", models.PositiveIntegerField(default=0)),
                ("seconds", models.FloatField(default=0.0, help_text="Of all that were answered.")),
                (
                    "scores",
                    models.FloatField(default=0.0, help_text="Sum of the best score of each that found something."),
                ),
                ("within_25ms", models.PositiveIntegerField(default=0)),
                ("within_50ms", models.PositiveIntegerField(default=0)),
                ("within_100ms", models.PositiveIntegerField(default=0)),
                ("within_200ms", models.PositiveIntegerField(default=0)),
                ("within_500ms", models.PositiveIntegerField(default=0)),
                ("within_1000ms", models.PositiveIntegerField(default=0)),
                ("within_2000ms", models.PositiveIntegerField(default=0)),
                ("within_5000ms", models.PositiveIntegerField(default=0)),
                (
                    "company",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="daily_searches", to="tenants.company"
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "daily searches",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("company", "day", "channel", "key_prefix"), name="one_row_of_searches"
                    )
                ],
            },
        ),
    ]
