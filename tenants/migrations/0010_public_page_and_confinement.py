import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0009_limits_of_pictures'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name='company',
            name='public_page',
            field=models.BooleanField(db_default=False, default=False, help_text="Everybody can open the company's search page and see its pictures, without a login or a key."),
        ),
        migrations.CreateModel(
            name='Confinement',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('companies', models.ManyToManyField(blank=True, help_text='The only companies that this user can see. None chosen: the user sees no company.', related_name='confinements', to='tenants.company')),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='confinement', to=settings.AUTH_USER_MODEL)),
            ],
        ),
    ]
