import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tenants", "0008_words_of_builds_and_keys")]

    operations = [
        migrations.AddField(
            model_name="company",
            name="max_bytes",
            field=models.PositiveBigIntegerField(
                blank=True,
                db_default=None,
                default=None,
                help_text="Maximum bytes of pictures in the folder that the API adds to. Empty: no limit.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
            ),
        ),
        migrations.AddField(
            model_name="company",
            name="max_pictures",
            field=models.PositiveIntegerField(
                blank=True,
                db_default=None,
                default=None,
                help_text="Maximum pictures in the folder that the API adds to. Uploads here may exceed it. "
                "Empty: no limit.",
                null=True,
                validators=[django.core.validators.MinValueValidator(1)],
            ),
        ),
        migrations.AddField(
            model_name="company",
            name="stored_bytes",
            field=models.PositiveBigIntegerField(db_default=None, default=None, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="company",
            name="stored_pictures",
            field=models.PositiveBigIntegerField(
                db_default=None,
                default=None,
                editable=False,
                help_text="Pictures in the folder. Empty: to be counted, because others may have written to it.",
                null=True,
            ),
        ),
    ]
