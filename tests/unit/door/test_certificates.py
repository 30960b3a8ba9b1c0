"""Certificates at the door: whose they are."""

from __future__ import annotations

import pytest

from crowd.door.asked import Asked, Known, Reason
from crowd.door.certificates import Certificates
from crowd.policy import CertificatePolicy

PRODUCERS = (
    CertificatePolicy("shop-a", ("dns:a.shop.example", "cn:shop-a")),
    CertificatePolicy("shop-b", ("uri:spiffe://example/shop-b",)),
)


@pytest.mark.parametrize(
    ("names", "producer"),
    [
        (("dns:a.shop.example",), "shop-a"),
        (("dns:other", "cn:shop-a"), "shop-a"),
        (("uri:spiffe://example/shop-b", "cn:x"), "shop-b"),
        (("dns:b.shop.example",), None),
        (("cn:a.shop.example",), None),
        (("uri:spiffe://example/shop-b/c",), None),
        ((), None),
    ],
)
def test_a_name_of_its_kind_says_who_posts(names, producer):
    asked = Asked(b"POST", [], b"", b"", 0.0, 0.0, lambda: names)
    found = Certificates(PRODUCERS).known(asked)
    if producer is None:
        assert found.reason is Reason.CERTIFICATE
    else:
        assert found == Known(producer, [])


def test_a_connection_without_a_certificate_hears_so():
    found = Certificates(PRODUCERS).known(Asked(b"POST", [], b"", b"", 0.0, 0.0))
    assert "found no certificate" in found.detail
