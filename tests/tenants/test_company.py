from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from tenants.models import Company

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("name", ["AOF", "a", "7", "acme-2.old", "A_b-c.d", "acme_", "a" * 64])
def test_names_that_are_safe_in_a_url_and_as_a_folder_are_accepted(name: str) -> None:
    Company(name=name).full_clean()


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc",
        "a\\b",
        ".hidden",
        "-rf",
        "_private",
        "acme.",
        "acme\n",
        "acme ",
        "a b",
        "a\0",
        "a%2Fb",
        "a?b",
        "caf\u00e9",
        "\u0430cme",  # a Cyrillic letter that looks like an a
        "a\u0301",
        "\U0001f600",
        "a" * 65,
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Company(name=name).full_clean()
    assert "name" in caught.value.message_dict


def test_a_name_is_taken_in_any_case() -> None:
    Company.objects.create(name="Acme")
    with pytest.raises(ValidationError, match="This name is taken"):
        Company(name="aCME").full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        Company.objects.create(name="aCME")


def test_a_company_may_be_saved_again_under_its_own_name() -> None:
    company = Company.objects.create(name="Acme")
    company.notes = "calls on Mondays"
    company.full_clean()


# The image folder


def clean(folder: str | Path) -> None:
    Company(name="acme", image_folder=str(folder)).full_clean()


def test_the_folder_is_by_default_the_one_of_its_name_below_the_media_directory(settings: Any) -> None:
    company = Company(name="acme")
    company.full_clean()
    assert company.image_directory == settings.MEDIA_ROOT / "acme"


def test_a_relative_folder_lies_below_the_media_directory(settings: Any) -> None:
    company = Company(name="acme", image_folder="shoes/summer")
    company.full_clean()
    assert company.image_directory == settings.MEDIA_ROOT / "shoes/summer"


def test_a_folder_below_an_image_root_is_accepted(settings: Any, tmp_path: Path) -> None:
    settings.IMAGE_ROOTS = [tmp_path / "nas", tmp_path / "other"]
    clean(tmp_path / "other/acme")
    clean(tmp_path / "nas/acme/../globex")


def test_a_folder_elsewhere_is_refused_naming_the_setting(settings: Any, tmp_path: Path) -> None:
    settings.IMAGE_ROOTS = [tmp_path / "nas"]
    with pytest.raises(ValidationError) as caught:
        clean("/etc")
    (message,) = caught.value.message_dict["image_folder"]
    assert "IMAGESEARCH_IMAGE_ROOTS" in message
    assert str(tmp_path / "nas") in message


def test_two_dots_do_not_lead_out(settings: Any, tmp_path: Path) -> None:
    settings.IMAGE_ROOTS = [tmp_path / "nas"]
    for folder in ("..", "../secret", "acme/../../secret", settings.MEDIA_ROOT / "../secret", tmp_path / "nas/.."):
        with pytest.raises(ValidationError):
            clean(folder)


def test_a_folder_that_only_begins_like_a_root_is_refused(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        clean(f"{settings.MEDIA_ROOT}-of-others/acme")


def test_a_link_does_not_lead_out(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (settings.MEDIA_ROOT / "link").symlink_to(tmp_path / "secret")
    for folder in ("link", "link/deeper", "acme/../link"):
        with pytest.raises(ValidationError):
            clean(folder)


def test_a_link_that_stays_inside_is_accepted(settings: Any) -> None:
    (settings.MEDIA_ROOT / "pictures").mkdir()
    (settings.MEDIA_ROOT / "link").symlink_to("pictures")
    clean("link")


def test_a_root_that_is_a_link_itself_is_accepted(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "nas").symlink_to(tmp_path / "disk")
    settings.IMAGE_ROOTS = [tmp_path / "nas"]
    clean(tmp_path / "nas/acme")
    clean(tmp_path / "disk/acme")


def test_the_default_folder_is_refused_where_it_is_a_link_that_leads_out(settings: Any, tmp_path: Path) -> None:
    (settings.MEDIA_ROOT / "acme").symlink_to(tmp_path)
    with pytest.raises(ValidationError):
        clean("")


def test_links_in_a_circle_are_refused(settings: Any) -> None:
    (settings.MEDIA_ROOT / "a").symlink_to("b")
    (settings.MEDIA_ROOT / "b").symlink_to("a")
    with pytest.raises(ValidationError):
        clean("a")


@pytest.mark.parametrize("theirs", ["globex", "shared/globex"])
@pytest.mark.parametrize("place", ["", "deeper", "deeper/still", ".."])
def test_two_companies_have_no_folder_in_common(settings: Any, theirs: str, place: str) -> None:
    globex = Company.objects.create(name="globex", image_folder="" if theirs == "globex" else theirs)
    folder = globex.image_directory / place
    if folder.resolve() == settings.MEDIA_ROOT:
        return  # nobody's, as before
    with pytest.raises(ValidationError, match="overlaps with the image folder of globex"):
        clean(folder)


def test_a_link_does_not_hide_that_folders_overlap(settings: Any) -> None:
    (Company.objects.create(name="globex").image_directory / "deeper").mkdir(parents=True)
    (settings.MEDIA_ROOT / "link").symlink_to("globex")
    (settings.MEDIA_ROOT / "acme").symlink_to("globex/deeper")
    for folder in ("link", "link/new", ""):
        with pytest.raises(ValidationError, match="overlaps with the image folder of globex"):
            clean(folder)


def test_folders_side_by_side_are_accepted() -> None:
    Company.objects.create(name="globex", image_folder="shared/globex")
    for folder in ("", "shared/globex2", "shared/acme", "globex"):
        clean(folder)


def test_the_default_folder_of_a_new_company_must_be_free() -> None:
    Company.objects.create(name="globex", image_folder="acme/summer")
    with pytest.raises(ValidationError, match="overlaps with the image folder of globex"):
        clean("")


@pytest.mark.parametrize("folder", [".hidden", "shop/.git", ".uploads/acme", "shop/../.trash"])
def test_a_hidden_folder_is_refused(folder: str) -> None:
    with pytest.raises(ValidationError, match="is hidden"):
        clean(folder)


def test_a_hidden_folder_above_a_root_does_not_matter(settings: Any, tmp_path: Path) -> None:
    settings.IMAGE_ROOTS = [tmp_path / ".mounts/nas"]
    clean(tmp_path / ".mounts/nas/acme")
    with pytest.raises(ValidationError, match="is hidden"):
        clean(tmp_path / ".mounts/nas/.acme")


def test_the_folder_of_the_indexes_is_refused(settings: Any, tmp_path: Path) -> None:
    settings.IMAGE_ROOTS = [tmp_path]
    for folder in (settings.EMBEDDINGS_DIR, settings.EMBEDDINGS_DIR / "acme", tmp_path):
        with pytest.raises(ValidationError, match="overlap"):
            clean(folder)


def test_folders_that_overlap_already_bar_no_other_edit() -> None:
    acme, globex = (Company.objects.create(name=name, image_folder="shared") for name in ("acme", "globex"))
    acme.notes = "calls on Mondays"
    acme.full_clean()
    globex.image_folder = "shared/deeper"
    with pytest.raises(ValidationError, match="overlaps with the image folder of acme"):
        globex.full_clean()
    globex.image_folder = ""
    globex.full_clean()


# Builds


def test_a_company_has_one_active_build() -> None:
    acme, globex = (Company.objects.create(name=name) for name in ("acme", "globex"))
    first = acme.queue_build()
    assert acme.queue_build() == first
    assert globex.queue_build() != first
    assert first.start()
    assert acme.queue_build() == first


def test_a_company_whose_build_is_over_gets_a_new_one() -> None:
    acme = Company.objects.create(name="acme")
    first = acme.queue_build()
    first.start()
    first.fail("out of disk")
    assert acme.queue_build() != first
    assert acme.builds.count() == 2


def test_a_build_is_claimed_once() -> None:
    build = Company.objects.create(name="acme").queue_build()
    same = type(build).objects.get(pk=build.pk)
    assert build.start()
    assert not same.start()


@pytest.mark.django_db(transaction=True)
def test_a_build_of_a_company_that_was_deleted_is_refused() -> None:
    acme = Company.objects.create(name="acme")
    Company.objects.all().delete()
    with pytest.raises(Company.DoesNotExist):
        acme.queue_build()


# Folders in an object store


@pytest.fixture
def stores(settings: Any) -> None:
    settings.IMAGE_STORES = ["s3://shop/pictures", "s3://other"]


def test_a_folder_below_an_allowed_one_in_a_store_is_accepted(stores: None) -> None:
    for folder in ("s3://shop/pictures/acme", "s3://other/acme", "s3://other/Año 2024/acme+globex/", "s3://other/a.b"):
        clean(folder)


@pytest.mark.parametrize(
    "folder",
    [
        "s3://elsewhere/acme",
        "s3://shop/acme",
        "s3://shop/pictures2",
        "s3://Shop/pictures/acme",
        "S3://shop/pictures/acme",
        " s3://shop/pictures/acme",
        "s3:/shop/pictures/acme",
        "s3://shop/pictures/../secret",
        "s3://shop/pictures/./acme",
        "s3://shop/pictures//acme",
        "s3://shop/pictures/acme//",
        "s3://shop/pictures/.acme",
        "s3://shop/pictures/acme?x=1",
        "s3://shop/pictures/acme#1",
        "s3://shop/pictures/%2e%2e/secret",
        "s3://shop/pictures/a\\..\\b",
        "s3://shop/pictures/acme\n",
        "s3://user@shop/pictures/acme",
        "s3://shop:9000/pictures/acme",
        "s3://",
        "s3://other",
        "s3://other/",
    ],
)
def test_any_other_folder_in_a_store_is_refused(stores: None, folder: str) -> None:
    with pytest.raises(ValidationError) as caught:
        clean(folder)
    assert list(caught.value.message_dict) == ["image_folder"]


def test_the_folder_of_all_companies_in_a_store_is_refused(stores: None) -> None:
    for folder in ("s3://shop/pictures", "s3://shop/pictures/"):
        with pytest.raises(ValidationError, match="choose a folder below it"):
            clean(folder)


def test_a_folder_in_a_store_is_refused_where_none_is_allowed_naming_the_setting() -> None:
    with pytest.raises(ValidationError, match=r"there are none.*IMAGESEARCH_IMAGE_ROOTS"):
        clean("s3://shop/pictures/acme")


def test_two_companies_have_no_folder_in_a_store_in_common(stores: None) -> None:
    Company.objects.create(name="globex", image_folder="s3://shop/pictures/globex")
    Company.objects.create(name="initech")
    for folder in ("s3://shop/pictures/globex", "s3://shop/pictures/globex/", "s3://shop/pictures/globex/new"):
        with pytest.raises(ValidationError, match="overlaps with the image folder of globex"):
            clean(folder)
    clean("s3://shop/pictures/globex2")
    clean("s3://other/globex")
    clean("")


def test_the_folder_of_the_indexes_in_a_store_is_refused(stores: None, settings: Any) -> None:
    settings.STORE = "s3://other/indexes"
    for folder in ("s3://other/indexes", "s3://other/indexes/acme"):
        with pytest.raises(ValidationError, match="folder of the indexes, s3://other/indexes, overlap"):
            clean(folder)
    clean("s3://other/indexes2")


def test_pictures_in_a_store_lie_in_no_directory() -> None:
    acme = Company(name="acme", image_folder="s3://shop/pictures/acme")
    assert acme.image_place == "s3://shop/pictures/acme"
    with pytest.raises(ValueError, match="on no disk"):
        _ = acme.image_directory
