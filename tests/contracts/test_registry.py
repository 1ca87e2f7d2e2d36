import pytest

from privacy.errors import RecipeError
from synth.registry import DEFAULT, SYNTHESIZERS, check_options, resolve, synthesizer


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_every_name_leads_to_a_class_that_bears_it(name: str) -> None:
    assert synthesizer(name).name == resolve(name) == name


def test_auto_means_the_default() -> None:
    assert resolve("auto") == DEFAULT
    assert synthesizer("auto") is synthesizer(DEFAULT)


@pytest.mark.parametrize("wrong", ["gmn", "", "AUTO", "synth.gmm:Gmm"])
def test_an_unknown_name_is_refused_with_all_known_ones(wrong: str) -> None:
    with pytest.raises(RecipeError, match="auto, gmm"):
        resolve(wrong)


@pytest.mark.parametrize("name", SYNTHESIZERS)
def test_options_are_checked_before_anything_is_spent(name: str) -> None:
    check_options(name, {})
    known = next(iter(synthesizer(name).options.model_fields))
    with pytest.raises(RecipeError, match=f"'{known}x' is not; did you mean '{known}'"):
        check_options(name, {f"{known}x": 3})


def test_of_images_auto_means_a_network_on_a_gpu_but_not_under_privacy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve("auto", images=True) == "image-mixture"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve("auto", images=True) == "image-diffusion"
    assert resolve("auto", images=True, private=True) == "image-mixture"
    assert resolve("auto") == DEFAULT
