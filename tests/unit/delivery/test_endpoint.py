"""Connections over real sockets and real TLS: to addresses that were judged, to proved hosts."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet import ssl
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from crowd.definition import ConsumerDefinition, Proof, Reach, Retry
from crowd.delivery.courier import make_courier
from crowd.delivery.endpoint import ReachingEndpoint
from crowd.delivery.outcome import Answered, Failed, FailureKind
from crowd.delivery.reach import Bounds
from crowd.delivery.request import Naming
from crowd.delivery.tls import FILE_BYTES_MAX, LOOK_AGAIN_S
from crowd.message import Message, Position
from crowd.raft.certificates import make_authority, make_node

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MESSAGE = Message(b"POST", b"/leads", (), b"", 1, b"192.0.2.1", b"http")
NAMING = Naming("0123abcd-0000000000000009", Position(9), 1)
HERE = "127.0.0.1"
ELSEWHERE = "127.0.0.2"
"""Loopback too, and so an address of this machine where nobody listens."""


@implementer(IHostnameResolver)
class NameServer:
    """Knows names; each answer is the next one that the test laid down, the last one for good."""

    def __init__(self):
        self.known = {}
        self.asked = []
        self.holding = None

    def resolveHostName(self, receiver, hostName, portNumber=0, *_, **__):  # noqa: N802, N803
        self.asked.append(hostName)
        answers = self.known.get(hostName, [[]])
        hosts = answers.pop(0) if len(answers) > 1 else answers[0]

        def tell():
            receiver.resolutionBegan(self)
            for host in hosts:
                kind = IPv6Address if ":" in host else IPv4Address
                receiver.addressResolved(kind("TCP", host, portNumber))
            receiver.resolutionComplete()

        if self.holding is None:
            tell()
        else:
            self.holding.append(tell)


class Consumer(Protocol):
    """Notes what it reads, what it was called and who called, and answers."""

    def dataReceived(self, data):  # noqa: N802
        self.factory.read += data
        tls = self.transport
        if hasattr(tls, "getHandle") and isinstance(tls.getHandle(), SSL.Connection):
            self.factory.called.append(tls.getHandle().get_servername())
            shown = tls.getPeerCertificate()
            self.factory.shown.append(shown and shown.get_serial_number())
        self.transport.write(OK)


@pytest.fixture
def names(reactor):
    made = NameServer()
    reactor.installNameResolver(made)
    return made


@pytest.fixture
def consumer(reactor):
    """Return a listening consumer with `read` and `port`."""
    factory = Factory.forProtocol(Consumer)
    factory.noisy = False
    factory.read, factory.called, factory.shown = b"", [], []
    factory.port = reactor.listenTCP(0, factory, interface=HERE).getHost().port
    return factory


def courier_to(reactor, url, *, proof=None, reach=None):
    retry = Retry(1_000_000, 2.0, 300_000_000, 10**12)
    definition = ConsumerDefinition(
        "c", url, None, (), 4, None, 5_000_000, "none", "now", retry, 10**9, "refuse",
        proof=proof or Proof(), reach=reach or Reach(),
    )  # fmt: skip
    return make_courier(reactor, definition, lambda: True, lambda _: None)


def attempts(reactor, courier, count=1):
    answers = []
    for _ in range(count):
        courier.attempt(MESSAGE, NAMING).addBoth(answers.append)
    until = time.monotonic() + 10
    while len(answers) < count:
        assert time.monotonic() < until, "no answer"
        reactor.iterate(0.02)
    return answers


def attempt(reactor, url, **fields):
    return attempts(reactor, courier_to(reactor, url, **fields))[0]


# --- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("169.254.169.254", "169.254.169.254 is in 169.254.0.0/16 of reach.deny"),
        ("[::ffff:a9fe:a9fe]", "(as 169.254.169.254)"),
        ("[fe80::1]", "fe80::1 is in fe80::/10 of reach.deny"),
    ],
)
def test_an_address_in_figures_is_judged(reactor, host, named):
    """A consumer whose url points at a cloud's metadata gets nothing, and it is told why."""
    answer = attempt(reactor, f"http://{host}:1")
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.CONNECT
    assert named in answer.words


def test_a_name_is_judged_by_its_addresses(reactor, names):
    """A name that leads to a denied address is refused, with name, address and rule."""
    names.known["api.internal"] = [["169.254.1.1", "fe80::9"]]
    answer = attempt(reactor, "http://api.internal:1")
    assert answer == Failed(
        FailureKind.CONNECT,
        "api.internal: 169.254.1.1 is in 169.254.0.0/16 of reach.deny; "
        "fe80::9 is in fe80::/10 of reach.deny",
    )


def test_a_name_with_many_denied_addresses(reactor, names):
    """The words stay short, whatever a name server says."""
    names.known["api.internal"] = [[f"169.254.1.{n}" for n in range(200)]]
    answer = attempt(reactor, "http://api.internal:1")
    assert answer.words.endswith(" of reach.deny; and 196 more")
    assert len(answer.words) < 400


def test_only_what_allow_names(reactor, names, consumer):
    """With `allow`, a name is reached inside its networks and nowhere else."""
    names.known["api.internal"] = [[HERE]]
    url = f"http://api.internal:{consumer.port}"
    assert attempt(reactor, url, reach=Reach(allow=("127.0.0.1/32",))) == Answered(200)
    answer = attempt(reactor, url, reach=Reach(allow=("10.0.0.0/8",)))
    assert answer == Failed(
        FailureKind.CONNECT, "api.internal: 127.0.0.1 is in no network of reach.allow"
    )


def test_a_name_that_changes_its_address_is_caught(reactor, names, consumer):
    """DNS rebinding: what is connected to is what was judged; the name is not asked again."""
    names.known["api.internal"] = [[HERE], ["169.254.169.254"]]
    courier = courier_to(reactor, f"http://api.internal:{consumer.port}")
    assert attempts(reactor, courier) == [Answered(200)]
    assert names.asked == ["api.internal"]
    courier.close()
    answer = attempt(reactor, f"http://api.internal:{consumer.port}")
    assert isinstance(answer, Failed)
    assert "169.254.169.254" in answer.words
    assert consumer.read.count(b"POST /leads") == 1


def test_denied_addresses_of_a_name_are_left_out(reactor, names, consumer):
    """Of a name's addresses those are tried that may be reached, one after the other."""
    names.known["api.internal"] = [["169.254.1.1", "::ffff:169.254.1.1", ELSEWHERE, HERE]]
    assert attempt(reactor, f"http://api.internal:{consumer.port}") == Answered(200)


@pytest.mark.parametrize("name", ["my_api", "api", "xn--bcher-kva.internal", "127.1"])
def test_names_of_all_kinds(reactor, names, consumer, name):
    """A name with an underscore, as in compose files, is one; so is a short form of figures."""
    names.known[name] = [[HERE]]
    assert attempt(reactor, f"http://{name}:{consumer.port}") == Answered(200)


def test_an_ipv6_address(reactor, consumer):
    """In brackets in the url, as everywhere."""
    try:
        port = reactor.listenTCP(0, consumer, interface="::1").getHost().port
    except CannotListenError:
        pytest.skip("this machine has no IPv6")
    assert attempt(reactor, f"http://[::1]:{port}") == Answered(200)
    assert b"\r\nHost: [::1]:%d\r\n" % port in consumer.read


def test_a_name_without_an_address(reactor, names):
    """A name that nobody knows is said to be that."""
    answer = attempt(reactor, "http://nowhere.internal:1")
    assert answer == Failed(FailureKind.CONNECT, "nowhere.internal: no address for that name")


def test_connections_share_a_lookup(reactor, names, consumer):
    """A consumer whose name server is slow holds one thread, however many attempts wait."""
    names.known["api.internal"] = [[HERE]]
    names.holding = []
    courier = courier_to(reactor, f"http://api.internal:{consumer.port}")
    reactor.callLater(0.05, lambda: [tell() for tell in names.holding])
    assert attempts(reactor, courier, 4) == [Answered(200)] * 4
    assert names.asked == ["api.internal"]


def test_who_gives_up_waiting_for_a_lookup_disturbs_nobody(reactor, names, consumer):
    """An attempt that ends meanwhile takes nobody's addresses away."""
    names.known["api.internal"] = [[HERE]]
    names.holding = []
    endpoint = ReachingEndpoint(reactor, "api.internal", consumer.port, Bounds(Reach()))
    first = endpoint.connect(Factory.forProtocol(Protocol))
    second = endpoint.connect(Factory.forProtocol(Protocol))
    ended = []
    first.addErrback(ended.append)
    second.addCallback(ended.append)
    first.cancel()
    assert len(ended) == 1
    names.holding.pop()()
    until = time.monotonic() + 10
    while len(ended) < 2 and time.monotonic() < until:
        reactor.iterate(0.02)
    assert isinstance(ended[1], Protocol)


def test_only_names_are_looked_up(reactor, names, consumer):
    """An address in figures needs no resolver, and so no thread."""
    assert attempt(reactor, f"http://{HERE}:{consumer.port}") == Answered(200)
    assert names.asked == []


@pytest.mark.parametrize(
    ("url", "reach"),
    [
        ("http://" + "a" * 64 + ".internal", Reach()),
        ("https://2130706433", Reach()),
        ("http://a", Reach(allow=("x",))),
    ],
)
def test_what_makes_no_sense_is_told_at_once(reactor, url, reach):
    """A name that no resolver would answer for, and a network that is none."""
    with pytest.raises(ValueError, match=r"label|network|DNS-ID"):
        courier_to(reactor, url, reach=reach)


# --- TLS ----------------------------------------------------------------------------------------


class Files:
    """An authority, another one, and certificates of theirs, in files."""

    def __init__(self, directory):
        self.directory = directory
        self.ours = make_authority("ours")
        self.theirs = make_authority("theirs")
        self.authority = self.write("ca.pem", self.ours[0])

    def write(self, name, content):
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def client(self, authority=None):
        certificate, key = make_node(*(authority or self.ours), "ours", "crowd")
        return Proof(
            self.authority, self.write("client.pem", certificate), self.write("client.key", key)
        )

    def server_options(self, *, hosts=(HERE, "api.internal"), authority=None, now=None, asks=False):
        made = make_node(*(authority or self.ours), "ours", "server", hosts, now=now)
        own = ssl.PrivateCertificate.loadPEM(b"".join(made))
        if asks:
            return own.options(ssl.Certificate.loadPEM(self.ours[0]))
        return own.options()


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def listen(reactor, consumer, options):
    factory = TLSMemoryBIOFactory(options, False, consumer, reactor)
    factory.noisy = False
    return reactor.listenTCP(0, factory, interface=HERE).getHost().port


def test_a_consumer_that_proves_its_name(reactor, names, files, consumer):
    """The name of the url is called and proved, though the connection goes to an address."""
    names.known["api.internal"] = [[HERE]]
    port = listen(reactor, consumer, files.server_options())
    url = f"https://api.internal:{port}"
    assert attempt(reactor, url, proof=Proof(files.authority)) == Answered(200)
    assert consumer.called == [b"api.internal"]
    assert consumer.read.startswith(b"POST /leads HTTP/1.1\r\nHost: api.internal:")


def test_a_consumer_that_proves_its_address(reactor, files, consumer):
    """An address in the url is proved by an address in the certificate; it is not called."""
    port = listen(reactor, consumer, files.server_options())
    assert attempt(reactor, f"https://{HERE}:{port}", proof=Proof(files.authority)) == Answered(200)
    assert consumer.called == [None]


AGO = datetime(2010, 1, 1, tzinfo=UTC)
LATER = datetime(2040, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("host", "options", "words"),
    [
        (HERE, {"hosts": ("127.0.0.9", "api.internal")}, "the certificate is not for 127.0.0.1"),
        ("api.internal", {"hosts": (HERE, "api.other")}, "the certificate is not for api.internal"),
        (HERE, {"now": AGO}, "the certificate has expired"),
        (HERE, {"now": LATER}, "the certificate is not valid yet"),
        (HERE, {"authority": "theirs"}, "the certificate is not of an authority that is trusted"),
    ],
)
def test_a_consumer_that_proves_nothing(reactor, names, files, consumer, host, options, words):
    """A wrong name, a wrong time, another authority: not a byte of a message goes."""
    names.known["api.internal"] = [[HERE]]
    if "authority" in options:
        options = {"authority": files.theirs}
    port = listen(reactor, consumer, files.server_options(**options))
    answer = attempt(reactor, f"https://{host}:{port}", proof=Proof(files.authority))
    assert answer == Failed(FailureKind.TLS, f"no TLS: {words}")
    assert consumer.read == b""


def signed(files, *extensions):
    """Return a certificate of the believed authority for HERE by its common name alone."""
    issuer = x509.load_pem_x509_certificate(files.ours[0])
    signer = serialization.load_pem_private_key(files.ours[1], None)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HERE)]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    pem = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return ssl.PrivateCertificate.loadPEM(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    ).options()


@pytest.mark.parametrize(
    "names_in_it",
    [
        (),
        (x509.DNSName("127.0.0.1"),),
        (x509.DNSName("*.*"),),
        (x509.RFC822Name("a@b.c"),),
        (x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.7"), b"\x01\x01\xff"),),
    ],
)
@pytest.mark.parametrize("host", [HERE, "api.internal"])
def test_a_certificate_whose_names_prove_nothing(
    reactor, names, files, consumer, host, names_in_it
):
    """Without a name that makes sense, a believed authority's certificate proves nobody.

    The common name counts for nothing (RFC 6125, 6.4.4). A check that raises something
    unforeseen refuses as well.
    """
    names.known["api.internal"] = [[HERE]]
    extensions = [x509.SubjectAlternativeName(names_in_it)] if names_in_it else []
    port = listen(reactor, consumer, signed(files, *extensions))
    answer = attempt(reactor, f"https://{host}:{port}", proof=Proof(files.authority))
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.TLS
    assert "the certificate " in answer.words
    assert consumer.read == b""


@pytest.mark.parametrize("name", ["api.shop.internal", "API.shop.internal", "api.shop.internal."])
def test_a_wildcard(reactor, names, files, consumer, name):
    """A star stands for one label, as everywhere; case and a final dot make no difference."""
    names.known[name.lower()] = [[HERE]]
    star = x509.SubjectAlternativeName([x509.DNSName("*.shop.internal")])
    port = listen(reactor, consumer, signed(files, star))
    assert attempt(reactor, f"https://{name}:{port}", proof=Proof(files.authority)) == Answered(200)
    assert consumer.called == [b"api.shop.internal"]


def test_no_tls_at_that_port(reactor, consumer):
    """An https url that points at a plain port is told as that."""
    answer = attempt(reactor, f"https://{HERE}:{consumer.port}")
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.TLS
    assert consumer.read.startswith(b"\x16\x03")  # a handshake, and nothing of a message
    assert MESSAGE.target not in consumer.read
    assert answer.words in {"no TLS: wrong version number", "no TLS: packet length too long"}


def test_without_an_authority_it_is_the_systems(reactor, files, consumer):
    """An authority of one's own is not believed unless the definition names it."""
    port = listen(reactor, consumer, files.server_options())
    answer = attempt(reactor, f"https://{HERE}:{port}")
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.TLS


def test_several_authorities(reactor, files, consumer):
    """While one authority is being replaced by another, both are believed."""
    both = files.write("both.pem", files.theirs[0] + files.ours[0])
    for authority in (files.ours, files.theirs):
        port = listen(reactor, consumer, files.server_options(authority=authority))
        assert attempt(reactor, f"https://{HERE}:{port}", proof=Proof(both)) == Answered(200)


def test_our_certificate_is_shown(reactor, files, consumer):
    """A consumer that asks for a certificate gets the configured one."""
    port = listen(reactor, consumer, files.server_options(asks=True))
    proof = files.client()
    assert attempt(reactor, f"https://{HERE}:{port}", proof=proof) == Answered(200)
    assert consumer.shown[0] is not None


@pytest.mark.parametrize("shown", ["none", "another authority's"])
def test_a_consumer_that_refuses_us(reactor, files, consumer, shown):
    """Without the certificate that it asks for nothing arrives, and TLS is what failed.

    In TLS 1.3 the consumer says so only after the handshake, as far as crowd sees it.
    """
    port = listen(reactor, consumer, files.server_options(asks=True))
    proof = Proof(files.authority) if shown == "none" else files.client(files.theirs)
    answer = attempt(reactor, f"https://{HERE}:{port}", proof=proof)
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.TLS
    assert "alert" in answer.words
    assert consumer.read == b""


@pytest.mark.parametrize("which", ["authority", "certificate", "private_key"])
@pytest.mark.parametrize("flaw", ["missing", "garbage", "directory", "huge"])
def test_a_file_of_no_use(reactor, files, consumer, which, flaw):
    """The attempt fails in words that name key and file, and works once the file is there."""
    port = listen(reactor, consumer, files.server_options())
    proof = files.client()
    path = Path(getattr(proof, which))
    good = path.read_bytes()
    path.unlink()
    if flaw == "directory":
        path.mkdir()
    elif flaw != "missing":
        path.write_bytes(b"x" * (FILE_BYTES_MAX + 1 if flaw == "huge" else 9))
    courier = courier_to(reactor, f"https://{HERE}:{port}", proof=proof)
    (answer,) = attempts(reactor, courier)
    assert isinstance(answer, Failed)
    assert answer.kind is FailureKind.TLS
    assert answer.words.startswith(f"tls.{which} {path}: ")
    if flaw == "directory":
        path.rmdir()
    path.write_bytes(good)
    assert attempts(reactor, courier) == [Answered(200)]


def test_a_key_of_another_certificate(reactor, files, consumer):
    """What does not belong together is said before a consumer is asked."""
    proof = files.client()
    files.write("client.key", make_node(*files.ours, "ours", "other")[1])
    answer = attempt(reactor, f"https://{HERE}:1", proof=proof)
    assert isinstance(answer, Failed)
    assert answer.words.endswith("found another key; expected the one of tls.certificate")


def test_a_renewed_certificate_is_shown(reactor, files, consumer):
    """A new certificate is used by new connections within about a minute, without a word."""
    passed = [0.0]
    reactor.seconds = lambda: time.monotonic() + passed[0]
    port = listen(reactor, consumer, files.server_options(asks=True))
    courier = courier_to(reactor, f"https://{HERE}:{port}", proof=files.client())
    assert attempts(reactor, courier) == [Answered(200)]
    files.client()  # the same paths, another certificate
    passed[0] += LOOK_AGAIN_S + 1  # the idle connection is closed as well
    reactor.iterate(0.6)
    assert attempts(reactor, courier) == [Answered(200)]
    assert len(set(consumer.shown)) == 2
