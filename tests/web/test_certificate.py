"""Certificates, as who was given one checks it."""

import json
import re
from dataclasses import replace

import httpx
from playwright.sync_api import expect

from lipmodel.signed.claims import SignedCertificate
from lipmodel.signed.jws import sign
from lipmodel.signed.key_sets import add_signing_key, read_signing_keys
from tests.signed.forging import decode

INPUT = [0.25, 0.75]


def signed(service):
    asked = {"inputs": [INPUT], "certificate": True}
    return httpx.post(f"{service}/v1/models/two-moons/predict", json=asked).raise_for_status()


def token_of(service):
    return signed(service).json()["predictions"][0]["certificate"]


def verdict(page):
    return page.locator(".notice .title")


def test_a_pasted_answer_holds_and_its_numbers_stand_side_by_side(visit, service):
    answer = signed(service)
    page = visit.open("/#/certificate")
    page.get_by_label("Certificate", exact=True).fill(answer.text)
    page.get_by_label("Input that was sent").fill("0.25, 0.75")
    page.get_by_role("button", name="Check it").click()
    expect(verdict(page)).to_have_text("It holds")
    row = page.get_by_role("row").filter(has_text="Certified radius")
    payload = decode(answer.json()["predictions"][0]["certificate"].split(".")[1])
    radius = str(json.loads(payload)["certified_radius"])
    expect(row.get_by_role("cell")).to_have_text([radius, radius, "right"])
    expect(page.get_by_role("row").filter(has_text="Signature")).to_contain_text("right")
    expect(page.get_by_role("row").filter(has_text="Digest of the folded weights")).to_have_count(1)
    expect(page.get_by_text("every statement holds by what was computed again")).to_be_visible()
    expect(page.get_by_text("float64", exact=True)).to_be_visible()
    expect(page.locator("#live")).to_have_text("It holds")


def test_an_answer_is_signed_to_look_at(visit):
    page = visit.open("/#/certificate")
    page.get_by_role("button", name="Have an answer signed").click()
    expect(verdict(page)).to_have_text("It holds")


def test_without_the_input_it_is_the_word_of_the_key(visit, service, tmp_path):
    (tmp_path / "certificate.jws").write_text(token_of(service))
    page = visit.open("/#/certificate")
    page.locator(".drop input[type=file]").set_input_files(tmp_path / "certificate.jws")
    expect(verdict(page)).to_have_text("Signed, not computed again")
    expect(page.get_by_text("two-moons, version 1")).to_be_visible()


def test_one_that_was_changed_does_not_hold(visit, service):
    token = token_of(service)
    page = visit.open("/#/certificate")
    page.get_by_label("Certificate", exact=True).fill(token[:-4] + "AAAA")
    page.get_by_role("button", name="Check it").click()
    expect(verdict(page)).to_have_text("It does not hold")
    expect(page.get_by_text("signature was not made over this")).to_be_visible()


def test_a_lie_that_was_signed_is_found_number_by_number(visit, service, tmp_path):
    """By an issuer whose key set is given: the signature is right, and what it signs is not."""
    add_signing_key(tmp_path / "keys.json")
    keys = read_signing_keys(tmp_path / "keys.json")
    true = SignedCertificate.from_json(decode(token_of(service).split(".")[1])).answer
    lie = sign(replace(true, margin=9.5), keys, "liar")
    page = visit.open("/#/certificate")
    page.get_by_label("Certificate", exact=True).fill(lie)
    page.get_by_label("Input that was sent").fill(str(INPUT))
    page.get_by_text("Keys of another issuer").click()
    page.get_by_label("Key set (JWKS)").fill(json.dumps({"keys": keys.published}))
    page.get_by_role("button", name="Check it").click()
    expect(verdict(page)).to_have_text("It does not hold")
    wrong = page.get_by_role("row").filter(has_text="wrong")
    expect(wrong).to_have_count(1)
    expect(wrong).to_contain_text("Margin")
    expect(wrong).to_contain_text("9.5")
    expect(page.get_by_text(re.compile("computed again it is"))).to_be_visible()


def test_what_is_no_certificate_is_told(visit):
    page = visit.open("/#/certificate")
    page.get_by_label("Certificate", exact=True).fill('{"format": "lipcert-certificate/1"}')
    page.get_by_role("button", name="Check it").click()
    expect(page.get_by_role("alert")).to_contain_text("lipmodel verify FILE")
    page.get_by_label("Certificate", exact=True).fill("hello")
    page.get_by_role("button", name="Check it").click()
    expect(verdict(page)).to_have_text("It does not hold")
