from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0018_secret_key_digest'),
    ]

    operations = [
        migrations.AddField(
            model_name='company',
            name='prefetch',
            field=models.BooleanField(db_default=False, default=False, help_text="Every machine fetches the company's new indexes from the object store before anybody searches them."),
        ),
    ]
