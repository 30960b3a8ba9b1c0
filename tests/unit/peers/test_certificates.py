"""Certificates for a cluster, as `crowd init` makes them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.task import Clock

from crowd.errors import ConfigurationError
from crowd.raft.certificates import identity_of, make_authority, make_node
from crowd.raft.tls import MutualTLS

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority():
    return make_authority("leads", now=NOW)


def test_a_nodes_certificate_proves_one_node_for_ten_years(authority):
    """It names the node, and serves a node that dials and one that accepts."""
    pem, _ = make_node(*authority, "leads", "a", ["127.0.0.1", "::1", "localhost"], now=NOW)
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority[0]))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.leads.crowd", "localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc.year == 2034


def test_private_keys_differ(authority):
    """No two nodes share a key."""
    keys = {make_node(*authority, "leads", name)[1] for name in "aab"}
    assert len(keys) == 3


@pytest.mark.parametrize("name", ["", "A", "a.b", "*", "-a", "a-", "a" * 64, "a\n", "ä", "a_b"])
def test_names_that_no_certificate_can_prove_are_refused(authority, name):
    """The name must be a DNS label in lower case; the words say so."""
    with pytest.raises(ValueError, match="expected 1 to 63"):
        identity_of("leads", name)
    with pytest.raises(ValueError, match="expected 1 to 63"):
        make_node(*authority, "leads", name)
    with pytest.raises(ValueError, match="expected 1 to 63"):
        make_authority(name)


@pytest.mark.parametrize(
    "host", ["b.leads.crowd", "B.LEADS.CROWD", "crowd", "*.example", "", "a b"]
)
def test_a_host_cannot_prove_another_node(authority, host):
    """An address in a certificate is never a second identity, nor a pattern."""
    with pytest.raises(ValueError, match="found host"):
        make_node(*authority, "leads", "a", [host])


def test_an_authoritys_key_must_be_its_own(authority):
    """Files that were mixed up are noticed when they are used."""
    with pytest.raises(ValueError, match="does not belong"):
        make_node(authority[0], make_authority("leads")[1], "leads", "a")


def problems_of(**changes):
    authority = make_authority("leads")
    certificate, key = make_node(*authority, "leads", "a")
    parts = {
        "cluster": "leads",
        "name": "a",
        "certificate": certificate,
        "private_key": key,
        "authority": authority[0],
    }
    try:
        MutualTLS(Clock(), **{**parts, **changes})
    except ConfigurationError as error:
        return error.problems
    return ()


def test_a_nodes_own_files_are_checked_at_start():
    """Every problem is named by its key, with what was found and expected."""
    assert problems_of() == ()
    assert problems_of(certificate=b"x", private_key=b"y", authority=b"") == (
        "cluster.certificate: found no certificate; expected one or more in PEM",
        "cluster.private_key: found no key; expected one in PEM, without a passphrase",
        "cluster.authority: found no certificate; expected one or more in PEM",
    )
    (problem,) = problems_of(name="b")
    assert problem == "cluster.certificate: found a.leads.crowd; expected b.leads.crowd"
    (problem,) = problems_of(authority=make_authority("leads")[0])
    assert "expected one issued by cluster.authority" in problem
    other = make_authority("leads")
    key = make_node(*other, "leads", "a")[1]
    (problem,) = problems_of(private_key=key)
    assert problem == "cluster.private_key: found another key; expected the certificate's"
