"""Companies and builds that the tests of several pages begin with."""

from collections.abc import Callable

import pytest

from tenants.models import Company, IndexBuild, SkippedImage
from tests.conftest import paint
from tests.support.admin import rebuild
from tests.support.fakes import BLUE, GREEN, RED

MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"a.png": RED, "b.png": BLUE})


@pytest.fixture
def two_generations(acme: Company) -> Company:
    paint(acme.image_directory / "c.png", GREEN)
    rebuild(acme)
    return acme


@pytest.fixture
def skipping_build(acme: Company) -> IndexBuild:
    """A build that skipped 1,200 files, the first of them with hostile names."""
    build = acme.builds.get()
    names = [
        "=cmd|' /C calc'!A0.png",
        "+1.png",
        "-1.png",
        "@x.png",
        " =x.png",
        "\t=x.png",
        'quo"te,s.png',
        "new\nline.png",
    ]
    names += [f"file-{n:05}.png" for n in range(1_200 - len(names))]
    SkippedImage.objects.bulk_create(SkippedImage(build=build, path=name, reason="-broken") for name in names)
    IndexBuild.objects.filter(pk=build.pk).update(images_skipped=1_200)
    return build
