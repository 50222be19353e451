import pytest
from django.core.management import CommandError, call_command

from tenants.models import Company


@pytest.mark.django_db
@pytest.mark.parametrize(
    "command",
    [
        "api_keys --company=nobody",
        "check_index nobody",
        "create_api_key --company=nobody --name=shop",
        "export_company nobody --to=archive.tar",
        "model_change --list nobody",
        "rollback_index nobody",
    ],
)
def test_commands_say_in_the_same_words_that_a_company_does_not_exist(command: str) -> None:
    with pytest.raises(CommandError) as refused:
        call_command(*command.split())
    assert str(refused.value) == "Company nobody does not exist. build_embeddings --company nobody --create creates it"


@pytest.mark.django_db
@pytest.mark.parametrize(("typed", "said"), [("AOFF", "AOF"), ("aof", "AOF"), ("globexx", "globex"), ("xyz", "")])
def test_commands_name_the_companies_of_similar_names(typed: str, said: str) -> None:
    for name in ("AOF", "globex"):
        Company.objects.create(name=name)
    with pytest.raises(CommandError) as refused:
        call_command("check_index", typed)
    asks = f" Did you mean {said}?" if said else ""
    assert f"Company {typed} does not exist.{asks} build_embeddings" in str(refused.value)
