import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0019_prefetch'),
    ]

    operations = [
        migrations.AddField(
            model_name='indexbuild',
            name='units_done',
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='units_running',
            field=models.PositiveIntegerField(db_default=0, default=0, help_text='Parts that a worker has in hand.'),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='units_total',
            field=models.PositiveIntegerField(db_default=0, default=0, help_text='Parts that workers embed.'),
        ),
        migrations.CreateModel(
            name='BuildUnit',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('status', models.CharField(choices=[('queued', 'Queued'), ('running', 'Running'), ('succeeded', 'Succeeded'), ('failed', 'Failed'), ('cancelled', 'Cancelled')], default='queued', max_length=10)),
                ('heartbeat_at', models.DateTimeField(null=True)),
                ('lease', models.CharField(blank=True, max_length=32)),
                ('attempts', models.PositiveSmallIntegerField(default=0)),
                ('error', models.TextField(blank=True)),
                ('number', models.PositiveIntegerField(help_text='Those that come first are embedded first.')),
                ('name', models.CharField(help_text='The same for the same pictures.', max_length=64)),
                ('fingerprint', models.CharField(help_text='That of the model that embeds them.', max_length=64)),
                ('pictures', models.PositiveIntegerField()),
                ('done', models.PositiveIntegerField(default=0, help_text='Pictures that its worker has looked at so far.')),
                ('result', models.CharField(blank=True, max_length=120)),
                ('sha256', models.CharField(blank=True, help_text='The checksum of the result.', max_length=64)),
                ('embedded', models.PositiveIntegerField(default=0)),
                ('skipped', models.PositiveIntegerField(default=0)),
                ('build', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='units', to='tenants.indexbuild')),
            ],
            options={
                'indexes': [models.Index(fields=['build', 'status', 'number'], name='units_to_claim')],
                'constraints': [models.UniqueConstraint(fields=('build', 'name'), name='unit_of_a_build_once')],
            },
        ),
    ]
