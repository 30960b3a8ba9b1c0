"""The names in the certificate that a producer showed in its TLS handshake.

The port between the transport and ``crowd/door/certificates.py``: what a name is called there, and
which are read. That a certificate is good was decided in the handshake.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from twisted.internet.interfaces import ISSLTransport


def certificate_names(transport: Any) -> tuple[str, ...] | None:
    """Return the names of a transport's peer, alternative names first; None without a certificate.

    They are ``dns:NAME``, ``uri:URI``, ``email:ADDRESS``, ``ip:ADDRESS`` and ``cn:NAME``.
    """
    if not ISSLTransport.providedBy(transport):
        return None
    shown = transport.getPeerCertificate()
    if shown is None:
        return None
    certificate: x509.Certificate = shown.to_cryptography()
    names: list[str] = []
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (
        x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError
    ):  # fmt: skip
        pass  # or one that cannot be read: then it names nobody
    else:
        kinds: dict[type[Any], str] = {x509.DNSName: "dns", x509.UniformResourceIdentifier: "uri",
                 x509.RFC822Name: "email", x509.IPAddress: "ip"}  # fmt: skip
        for name in extension.value:
            kind = kinds.get(type(name))
            if kind is not None:
                text = str(name.value)
                names.append(f"{kind}:{text.lower() if kind == 'dns' else text}")
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return (*names, *(f"cn:{each.value!s}" for each in common))
