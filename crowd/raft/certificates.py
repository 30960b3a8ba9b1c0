"""Makes a cluster's authority and its nodes' certificates, for ``crowd init``.

Decides what such a certificate looks like and which name in it proves a node. Leaves
checking to ``tls`` and files to the caller. EC P-256 keys, SHA-256, ten years.

A node is proved by one DNS name among its subject alternative names (RFC 6125):
``NAME.CLUSTER.crowd``. The name is never looked up. The cluster's name is in it, so a
certificate serves one cluster even where an authority serves two.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence

VALIDITY: Final = timedelta(days=3652)
"""Ten years: a forgotten renewal must not stop a cluster; replace an authority to revoke."""

CLOCK_SKEW: Final = timedelta(hours=1)
"""Valid from an hour ago, for a node whose clock is behind that of the maker."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
_DOMAIN: Final = "crowd"


def identity_of(cluster: str, name: str) -> str:
    """Return the DNS name that proves node `name` of `cluster`.

    Raises ValueError unless both are DNS labels in lower case: TLS compares names without
    regard to case, so "a" and "A" would be one node.
    """
    for what, label in (("cluster", cluster), ("node", name)):
        if not _LABEL.match(label):
            raise ValueError(
                f"found {what} name {label!r}; expected 1 to 63 of a-z, 0-9 and '-', "
                "beginning and ending with a letter or a digit"
            )
    return f"{name}.{cluster}.{_DOMAIN}"


def make_authority(cluster: str, *, now: datetime | None = None) -> tuple[bytes, bytes]:
    """Return a new authority for `cluster`: its certificate and its private key, as PEM.

    `now` is the wall clock, taken from the system if left out. Raises ValueError for a
    name that `identity_of` refuses.
    """
    identity_of(cluster, "x")
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"crowd authority of {cluster}")
    certificate = (
        _begun(name, name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(certificate), _private_pem(key)


def make_node(
    authority_certificate: bytes,
    authority_key: bytes,
    cluster: str,
    name: str,
    hosts: Sequence[str] = (),
    *,
    now: datetime | None = None,
) -> tuple[bytes, bytes]:
    """Return a new certificate and private key for node `name` of `cluster`, as PEM.

    Authority and key are PEM, as `make_authority` returns them. `hosts` are addresses or
    host names to stand beside the node's identity, for people's tools; crowd ignores them.
    Raises ValueError for a name or host that is none, or a host that would prove a node.
    """
    issuer = x509.load_pem_x509_certificate(authority_certificate)
    signer = serialization.load_pem_private_key(authority_key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise TypeError("found an authority's key of another kind; expected an EC key")
    if signer.public_key() != issuer.public_key():
        raise ValueError("the authority's key does not belong to its certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    identity = x509.DNSName(identity_of(cluster, name))
    certificate = (
        _begun(_name(f"{name} of {cluster}"), issuer.subject, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            # A node both dials and accepts, so its certificate serves as both.
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectAlternativeName([identity, *map(_host, hosts)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return _pem(certificate), _private_pem(key)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime | None
) -> x509.CertificateBuilder:
    moment = now or datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - CLOCK_SKEW)
        .not_valid_after(moment + VALIDITY)
    )


def _name(text: str) -> x509.Name:
    # RFC 5280 gives a common name 64 characters; it is for people, nothing reads it.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass  # not an address: a host name, or nothing
    labels = host.lower().split(".")
    if not all(map(_LABEL.match, labels)):
        raise ValueError(f"found host {host!r}; expected an IP address or a host name")
    if labels[-1] == _DOMAIN:
        raise ValueError(f"found host {host!r}; names under .{_DOMAIN} prove nodes")
    return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
