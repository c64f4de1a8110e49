"""What people had in the place of a model, from the threads of other programs: it works, or one line says what it is."""

import pytest
from odd_models import JUDGED, PARTS, USERS, VAES, Models, Place

from sentinv.errors import ModelError
from sentinv.models.loading import load


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("case", [*JUDGED, *PARTS, *VAES], ids=lambda case: case.what)
def test_it_works_or_one_line_says_what_it_is(case, models, tmp_path, monkeypatch):
    for module in USERS:
        monkeypatch.setattr(module, "CONFIGS", models.configs)
    given = case.build(Place(tmp_path, models))
    if not case.told:
        load(**given, device="cpu")
        return
    with pytest.raises(ModelError) as error:
        load(**given, device="cpu")
    said = str(error.value).replace(f"{tmp_path}/", "")
    assert case.told in said and "\n" not in said
    assert not any(word in said for word in ("torch.", "Traceback", "meta tensor", "from_single_file")), said
