"""Checking signed certificates."""

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


def check(page, certificate, **fields):
    """Fill in a certificate, and other fields by their labels, and press the button."""
    for label, text in {"Certificate": certificate, **fields}.items():
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_role("button", name="Check", exact=True).click()


def test_pasted_response_holds_with_stated_and_recomputed_numbers(visit, service):
    answer = signed(service)
    page = visit.open("/#/certificate")
    check(page, answer.text, Input="0.25, 0.75")
    expect(verdict(page)).to_have_text("Certificate holds")
    row = page.get_by_role("row").filter(has_text="Certified radius")
    payload = decode(answer.json()["predictions"][0]["certificate"].split(".")[1])
    radius = str(json.loads(payload)["certified_radius"])
    expect(row.get_by_role("cell")).to_have_text([radius, radius, "passed"])
    expect(page.get_by_role("row").filter(has_text="Signature")).to_contain_text("passed")
    expect(page.get_by_role("row").filter(has_text="Digest of the folded weights")).to_have_count(1)
    expect(page.get_by_text("recomputation confirms every statement")).to_be_visible()
    expect(page.get_by_text("float64", exact=True)).to_be_visible()
    expect(page.locator("#live")).to_have_text("Certificate holds")


def test_example_is_signed_and_checked(visit):
    page = visit.open("/#/certificate")
    page.get_by_role("button", name="Sign an example").click()
    expect(verdict(page)).to_have_text("Certificate holds")


def test_without_the_input_only_the_signature_is_checked(visit, service, tmp_path):
    (tmp_path / "certificate.jws").write_text(token_of(service))
    page = visit.open("/#/certificate")
    page.locator(".drop input[type=file]").set_input_files(tmp_path / "certificate.jws")
    expect(verdict(page)).to_have_text("Signature valid, numbers not recomputed")
    expect(page.get_by_text("two-moons, version 1")).to_be_visible()


def test_modified_certificate_does_not_hold(visit, service):
    token = token_of(service)
    page = visit.open("/#/certificate")
    check(page, token[:-4] + "AAAA")
    expect(verdict(page)).to_have_text("Certificate does not hold")
    expect(page.get_by_text("signature does not verify")).to_be_visible()


def test_signed_false_margin_is_found(visit, service, tmp_path):
    """The issuer's key set is given: the signature is valid, the signed margin is not."""
    add_signing_key(tmp_path / "keys.json")
    keys = read_signing_keys(tmp_path / "keys.json")
    true = SignedCertificate.from_json(decode(token_of(service).split(".")[1])).answer
    forged = sign(replace(true, margin=9.5), keys, "liar")
    page = visit.open("/#/certificate")
    page.get_by_text("Keys of another issuer").click()
    page.get_by_label("Key set (JWKS)").fill(json.dumps({"keys": keys.published}))
    check(page, forged, Input=str(INPUT))
    expect(verdict(page)).to_have_text("Certificate does not hold")
    failed = page.get_by_role("row").filter(has_text="failed")
    expect(failed).to_have_count(1)
    expect(failed).to_contain_text("Margin")
    expect(failed).to_contain_text("9.5")
    expect(page.get_by_text(re.compile("recomputed it is"))).to_be_visible()


def test_text_without_a_certificate_is_reported(visit):
    page = visit.open("/#/certificate")
    check(page, '{"format": "lipcert-certificate/1"}')
    expect(page.get_by_role("alert")).to_contain_text("lipmodel verify FILE")
    check(page, "hello")
    expect(verdict(page)).to_have_text("Certificate does not hold")
