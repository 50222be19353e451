import pytest
from django.core.management import CommandError, call_command


@pytest.mark.django_db
@pytest.mark.parametrize(
    "command",
    [
        "api_keys --company=nobody",
        "check_index nobody",
        "create_api_key --company=nobody --name=shop",
        "export_company nobody --to=archive.tar",
        "rollback_index nobody",
    ],
)
def test_commands_say_in_the_same_words_that_a_company_does_not_exist(command: str) -> None:
    with pytest.raises(CommandError) as refused:
        call_command(*command.split())
    assert str(refused.value) == "Company nobody does not exist: manage.py build_embeddings --company nobody creates it"
