"""The models, as a person looks at them."""


def test_every_model_is_shown(visit):
    page = visit.open()
    assert page.locator("h1").inner_text() == "Models"
    assert page.locator(".card h2").all_inner_texts() == ["digits", "two-moons"]
