from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0012_watch"),
    ]

    operations = [
        migrations.AddField(
            model_name="indexbuild",
            name="neighbours_own",
            field=models.PositiveIntegerField(
                db_default=None,
                default=None,
                help_text="Those of them whose nearest neighbour is in their folder.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="indexbuild",
            name="neighbours_tried",
            field=models.PositiveIntegerField(
                db_default=None, default=None, help_text="Pictures whose nearest neighbour was looked at.", null=True
            ),
        ),
    ]
