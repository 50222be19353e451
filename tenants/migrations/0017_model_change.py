from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tenants', '0016_duplicates'),
    ]

    operations = [
        migrations.AddField(
            model_name='company',
            name='candidate',
            field=models.CharField(db_default=None, default=None, editable=False, help_text='A generation made with another model than the one that searches use; it waits to be used.', max_length=64, null=True),
        ),
        migrations.AddField(
            model_name='company',
            name='model_before',
            field=models.CharField(db_default='', default='', editable=False, help_text='Fingerprint of the model that searches used before the last change of the model.', max_length=64),
        ),
        migrations.AddField(
            model_name='company',
            name='own_model',
            field=models.CharField(db_default='', default='', editable=False, help_text='Fingerprint of the model that builds use instead of the configured one.', max_length=64),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='candidate',
            field=models.CharField(blank=True, db_default='', default='', help_text='The generation that the new model made.', max_length=64),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='fingerprint',
            field=models.CharField(blank=True, db_default='', default='', help_text='That of this model.', max_length=64),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='follow_up_switch',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='neighbours_own_before',
            field=models.PositiveIntegerField(db_default=None, default=None, null=True),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='neighbours_tried_before',
            field=models.PositiveIntegerField(db_default=None, default=None, null=True),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='overlap',
            field=models.FloatField(db_default=None, default=None, help_text='Share of the first ten results that both have, 0 to 1.', null=True),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='overlap_tried',
            field=models.PositiveIntegerField(db_default=None, default=None, help_text='Pictures that were searched for with both models.', null=True),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='switch',
            field=models.BooleanField(db_default=False, default=False, help_text='Its model is used at once, also where a person would choose.'),
        ),
        migrations.AddField(
            model_name='indexbuild',
            name='weights_before',
            field=models.CharField(blank=True, db_default='', default='', help_text='Weights of the model before.', max_length=200),
        ),
        migrations.AddField(
            model_name='livechange',
            name='second_fingerprint',
            field=models.CharField(blank=True, db_default='', default='', help_text='The model that made it; one without a vector could not read the picture.', max_length=64),
        ),
        migrations.AddField(
            model_name='livechange',
            name='second_vector',
            field=models.BinaryField(db_default=None, default=None, help_text='float32 [960] of the same picture, of another model.', null=True),
        ),
        migrations.AlterField(
            model_name='auditevent',
            name='action',
            field=models.CharField(choices=[('company made', 'company created'), ('company changed', 'company updated'), ('company deleted', 'company deleted'), ('picture put', 'picture uploaded'), ('picture deleted', 'picture deleted'), ('pictures uploaded', 'pictures uploaded'), ('build asked for', 'build requested'), ('build cancelled', 'build cancelled'), ('duplicates asked for', 'search for duplicates requested'), ('duplicates cancelled', 'search for duplicates cancelled'), ('not duplicates', 'marked as not duplicates'), ('duplicates after all', 'no longer marked as not duplicates'), ('company exported', 'company exported'), ('index imported', 'index imported'), ('index rolled back', 'index rolled back'), ('model chosen', 'model chosen'), ('key made', 'API key created'), ('key revoked', 'API key revoked'), ('user confined', 'user confined to companies'), ('confinement changed', "user's companies changed"), ('confinement lifted', 'confinement lifted')], max_length=20),
        ),
    ]
