from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0017_model_change'),
    ]

    operations = [
        migrations.CreateModel(
            name='SecretKeyDigest',
            fields=[
                ('id', models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('digest', models.CharField(help_text='Salt and scrypt of SECRET_KEY, in hexadecimal.', max_length=100)),
            ],
        ),
    ]
