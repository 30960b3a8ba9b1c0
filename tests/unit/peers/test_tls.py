# ruff: noqa: N802 - Twisted's names
"""Peers over real sockets and TLS: who is let in, and who is not (I6)."""

from __future__ import annotations

import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL.crypto import X509, PKey
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.ssl import CertificateOptions, TLSVersion
from zope.interface import implementer

from crowd.errors import PeerRejectedError
from crowd.raft.certificates import make_authority, make_node
from crowd.raft.frames import encode_frame
from crowd.raft.links import PeerLinks
from crowd.raft.tls import EagerSocket, MutualTLS
from crowd.raft.wire import AppendEntries, NextIndex, encode_hello

ROSTER = ("a", "b")


@pytest.fixture(scope="module")
def authority():
    return make_authority("leads")


@pytest.fixture
def reactor():
    """Return a reactor of this test's own, with the monotonic clock; nothing of it is global."""
    own = SelectReactor()
    own.seconds = time.monotonic
    yield own
    own.removeAll()
    own.waker.connectionLost(None)
    for call in own.getDelayedCalls():
        call.cancel()


@pytest.fixture
def spin(reactor):
    def run(until, within_s=10.0):
        end_s = time.monotonic() + within_s
        while not until():
            assert time.monotonic() < end_s, "it did not come about in time"
            reactor.iterate(0.05)

    return run


@pytest.fixture
def hellos():
    """Hellos by the names of the nodes that say another one than usual."""
    return {}


@pytest.fixture
def start(reactor, spin, authority, make_recorder, make_hello, hellos):
    """Start node `name`'s links; `ports` says where the others are."""
    started = []

    def make(name, ports=None, *, proved_by=None):
        certificate, key = proved_by or make_node(*authority, "leads", name)
        security = MutualTLS(
            reactor,
            cluster="leads",
            name=x509_node(certificate),
            certificate=certificate,
            private_key=key,
            authority=authority[0],
        )
        links = PeerLinks(
            reactor,
            name=name,
            hello=lambda: hellos.get(name) or make_hello(name, roster=ROSTER),
            dial=lambda port: TCP4ClientEndpoint(reactor, "127.0.0.1", int(port)),
            accept=TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            security=security,
            listener=(recorder := make_recorder()),
            chance=lambda: 0.5,
        )
        peers = {peer: str((ports or {}).get(peer, 1)) for peer in ROSTER}
        links.follow(peers, {peer for peer in peers if peer > name})
        links.startService()
        started.append(links)
        return links, recorder

    yield make
    stopped = [links.stopService() for links in started if links.running]
    spin(lambda: all(one.called for one in stopped))


def x509_node(pem):
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)[0].split(".")[0]


@implementer(IHandshakeListener)
class Stranger(Protocol):
    """Connects, says `first` at its first chance, and notes what it hears."""

    def __init__(self, first):
        self.first, self.got, self.lost, self.secured = first, b"", None, False

    def connectionMade(self):
        if not hasattr(self.transport, "getPeerCertificate"):
            self.transport.write(self.first)

    def handshakeCompleted(self):
        self.secured = True
        self.transport.write(self.first)

    def dataReceived(self, data):
        self.got += data

    def connectionLost(self, reason):
        self.lost = reason


@pytest.fixture
def visit(reactor, spin):
    """Let a stranger connect to `links`, and wait until he is gone."""

    def go(links, first, options=None):
        stranger = Stranger(first)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", links.address.port)
        if options is not None:
            endpoint = wrapClientTLS(options, endpoint, reactor)
        endpoint.connect(Factory.forProtocol(lambda: stranger)).addErrback(lambda _: None)
        spin(lambda: stranger.lost is not None)
        return stranger

    return go


def options_of(certificate, key, **more):
    return CertificateOptions(
        privateKey=PKey.from_cryptography_key(serialization.load_pem_private_key(key, None)),
        certificate=X509.from_cryptography(x509.load_pem_x509_certificate(certificate)),
        **more,
    )


def test_i6_two_nodes_prove_themselves_and_talk(start, spin, logged):
    """I6: peers of one authority connect over TLS 1.3; small and large messages arrive."""
    b, b_heard = start("b")
    a, a_heard = start("a", {"b": b.address.port})
    spin(lambda: a.connected and b.connected)
    wire = next(iter(a._links)).transport
    assert wire.getHandle().get_protocol_version_name() == "TLSv1.3"
    large = AppendEntries(1, 0, 0, 0, 7, ((bytes(3_000_000), 1, 1),))
    small = [NextIndex(1, number, True, False, 0, 0, True) for number in range(2000)]
    assert a.send("b", large)
    assert all(b.send("a", message) for message in small)
    spin(lambda: b_heard.messages() and len(a_heard.messages()) == len(small))
    assert b_heard.messages() == [large]
    assert a_heard.messages() == small


def test_a_node_that_stops_is_noticed_and_met_again(start, spin, reactor):
    """The other side hears of a stop at once."""
    b, _ = start("b")
    a, a_heard = start("a", {"b": b.address.port})
    spin(lambda: a.connected and b.connected)
    stopped = b.stopService()
    spin(lambda: stopped.called)
    spin(lambda: ("disconnected", "b") in a_heard.kinds())


def test_i6_a_certificate_proves_a_node_and_the_hello_a_member(
    start, spin, logged, hellos, make_hello
):
    """I6: a node that is no member yet is refused; from the change on it is let in; and back."""
    hellos["b"] = make_hello("b", roster="b", roster_index=5)
    b, b_heard = start("b")
    b.follow({}, ())
    a, a_heard = start("a", {"b": b.address.port})
    spin(lambda: any("a is not among the members 'b'" in text for text in logged))
    assert not b_heard.heard
    hellos["b"] = make_hello("b", roster="ab", roster_index=6)
    b.follow({"a": "0"}, ())
    spin(lambda: a.connected and b.connected)
    b.follow({}, ())
    assert not b.connected
    spin(lambda: b_heard.heard[-1] == ("disconnected", "a", "is no member any more"))
    spin(lambda: a_heard.kinds()[-1] == ("disconnected", "b"))
    a.follow({}, ())


@pytest.mark.parametrize(("newcomer", "member"), [("a", "b"), ("b", "a")])
def test_a_newcomer_proves_itself_to_a_member_that_missed_its_enrolment(
    start, spin, hellos, make_hello, newcomer, member
):
    """Whichever name sorts lower: the newcomer dials, and its hello speaks for it."""
    hellos[member] = make_hello(member, roster=member, roster_index=5)
    hellos[newcomer] = make_hello(newcomer, roster="ab", roster_index=6)
    old, old_heard = start(member)
    old.follow({}, ())
    new, _ = start(newcomer)
    new.follow({member: str(old.address.port)}, {member})
    spin(lambda: old.connected and new.connected)
    assert old.send(newcomer, NextIndex(1, 1, True, False, 0, 0, True))
    assert new.send(member, NextIndex(1, 2, True, False, 0, 0, True))
    spin(old_heard.messages)


def test_a_peer_that_moved_is_met_at_its_new_address(start, spin):
    """A member's address changes in the log: the old connection ends, the new one proves itself."""
    b, _ = start("b")
    a, a_heard = start("a", {"b": b.address.port})
    spin(lambda: a.connected and b.connected)
    moved, moved_heard = start("b")
    a.follow({"b": str(moved.address.port)}, {"b"})
    spin(lambda: ("connected", "a") in moved_heard.kinds() and a.connected)
    assert a_heard.kinds() == [("connected", "b"), ("disconnected", "b"), ("connected", "b")]
    spin(lambda: not b.connected)
    assert moved.connected


def good_hello(make_hello):
    return encode_frame(encode_hello(make_hello("a", roster=ROSTER)))


def test_i6_a_peer_without_a_certificate_is_refused(start, spin, visit, make_hello, logged):
    """I6: whoever shows none hears nothing of the node, and his hello is not read."""
    b, heard = start("b")
    stranger = visit(b, good_hello(make_hello), CertificateOptions())
    assert not stranger.got
    assert not heard.heard
    spin(lambda: any("peer did not return a certificate" in text for text in logged))


def test_i6_a_peer_of_another_authority_is_refused(start, spin, visit, make_hello, logged):
    """I6: a certificate with the right name, signed by somebody else, proves nothing."""
    b, heard = start("b")
    forged = make_node(*make_authority("leads"), "leads", "a")
    stranger = visit(b, good_hello(make_hello), options_of(*forged))
    assert not stranger.got
    assert not heard.heard
    spin(lambda: any("certificate verify failed" in text for text in logged))


def test_i6_a_peer_with_this_nodes_own_name_is_refused(
    start, spin, visit, authority, make_hello, logged
):
    """I6: a node's own name is no one else's: the other one hears nothing of it."""
    b, heard = start("b")
    proved = make_node(*authority, "leads", "b")
    stranger = visit(b, good_hello(make_hello), options_of(*proved))
    assert not stranger.got
    assert not heard.heard
    words = "found this node's own name b; expected another one's"
    spin(lambda: any(words in text for text in logged))


def test_i6_a_peer_with_another_nodes_name_is_refused(
    start, spin, visit, authority, make_hello, logged
):
    """I6: the accepting side takes the name from the certificate; x cannot greet as a."""
    b, heard = start("b")
    proved = make_node(*authority, "leads", "x")
    visit(b, good_hello(make_hello), options_of(*proved))
    assert not heard.heard
    spin(lambda: any("no link with x" in text for text in logged))
    assert any("found node name 'a'; expected 'x'" in text for text in logged)


def test_i6_a_node_that_is_no_member_is_refused_with_words(
    start, spin, visit, authority, make_hello, logged
):
    """I6: a certificate of this cluster makes no member: the hello decides, both logs say why."""
    b, heard = start("b")
    proved = make_node(*authority, "leads", "x")
    hello = encode_frame(encode_hello(make_hello("x", roster="abx")))
    stranger = visit(b, hello, options_of(*proved))
    assert stranger.got, "b's own hello tells x why"
    assert not heard.heard
    spin(lambda: any("found roster 'a b x'; expected 'a b'" in text for text in logged))


def test_i6_a_certificate_of_another_cluster_is_refused(
    start, spin, visit, authority, make_hello, logged
):
    """I6: one authority may serve two clusters; their nodes do not mix."""
    b, heard = start("b")
    proved = make_node(*authority, "other", "a")
    stranger = visit(b, good_hello(make_hello), options_of(*proved))
    assert not stranger.got
    assert not heard.heard
    spin(lambda: any("found a certificate for a.other.crowd" in text for text in logged))


def test_i6_a_wildcard_proves_nobody(start, spin, visit, authority, make_hello, logged):
    """I6: a certificate for every node is a certificate for none."""
    b, heard = start("b")
    pattern = certificate_for(authority, "*.leads.crowd")
    stranger = visit(b, good_hello(make_hello), options_of(*pattern))
    assert not stranger.got
    assert not heard.heard
    spin(lambda: any("found a certificate for *.leads.crowd" in text for text in logged))


def test_tls_below_1_3_is_refused(start, visit, authority, make_hello):
    """Peers are all crowd: there is no old version to be kind to."""
    b, heard = start("b")
    proved = make_node(*authority, "leads", "a")
    old = options_of(*proved, lowerMaximumSecurityTo=TLSVersion.TLSv1_2)
    stranger = visit(b, good_hello(make_hello), old)
    assert not stranger.secured
    assert not heard.heard


def test_i6_the_connecting_side_checks_the_name_too(start, spin, authority, logged):
    """I6: a node that answers at b's address with c's certificate gets no hello."""
    b, b_heard = start("b", proved_by=make_node(*authority, "leads", "c"))
    a, a_heard = start("a", {"b": b.address.port})
    words = "found a certificate for c.leads.crowd; expected one for b.leads.crowd"
    spin(lambda: any(words in text for text in logged))
    assert not a_heard.heard
    assert not b_heard.heard
    assert not a.connected


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 16, bytes(100_000)])
def test_i6_garbage_on_the_peer_port_is_refused(start, spin, visit, garbage):
    """I6: bytes that are not TLS end the connection; peers still connect."""
    b, heard = start("b")
    visit(b, garbage)
    assert not heard.heard
    a, _ = start("a", {"b": b.address.port})
    spin(lambda: a.connected and b.connected)


def test_i7_a_proved_peer_that_claims_4_gib_is_disconnected(start, spin, visit, authority, logged):
    """I7: even a peer's claim is refused before a buffer is made for it."""
    b, heard = start("b")
    proved = make_node(*authority, "leads", "a")
    visit(b, b"\xff\xff\xff\xff", options_of(*proved))
    assert not heard.heard
    spin(lambda: any("a frame claims 4294967295 bytes" in text for text in logged))


class Shown:
    """A transport whose other end shows this certificate, or none."""

    def __init__(self, pem):
        self.pem = pem

    def getPeerCertificate(self):
        if self.pem is None:
            return None
        return X509.from_cryptography(x509.load_pem_x509_certificate(self.pem))


@pytest.fixture
def identify_member(reactor, authority):
    certificate, key = make_node(*authority, "leads", "b")
    security = MutualTLS(
        reactor,
        cluster="leads",
        name="b",
        certificate=certificate,
        private_key=key,
        authority=authority[0],
    )
    return lambda pem: security.identify_member(Shown(pem))


@pytest.mark.parametrize(
    "names",
    [
        ["x.leads.crowd"],
        ["X.Leads.crowd"],
        ["x.leads.crowd", "X.leads.crowd", "db.example.com", "x.other.crowd", "localhost"],
        ["x.leads.crowd", "*.leads.crowd", "y.x.leads.crowd"],
    ],
)
def test_i6_a_certificate_proves_its_one_node(identify_member, authority, names):
    """I6: names of hosts and of other clusters beside it, and patterns, mean nothing."""
    assert identify_member(certificate_for(authority, *names)[0]) == "x"


@pytest.mark.parametrize(
    "names",
    [
        ["x.leads.crowd", "y.leads.crowd"],
        ["*.leads.crowd"],
        ["x*.leads.crowd"],
        ["x.other.crowd"],
        ["x.leads.crowd.example.com"],
        ["y.x.leads.crowd"],
        ["leads.crowd"],
        [".leads.crowd"],
        ["x_y.leads.crowd"],
        ["-x.leads.crowd"],
        ["x" * 64 + ".leads.crowd"],
        ["x.leads.crowd."],
        ["x\0.leads.crowd"],
        ["10.0.0.1"],
        [""],
        [],
    ],
)
def test_i6_a_certificate_proves_one_node_or_none(identify_member, authority, names):
    """I6: of two names none counts; nor does what no node may be called."""
    with pytest.raises(PeerRejectedError, match=r"expected one for one node of cluster leads"):
        identify_member(certificate_for(authority, *names)[0])


def test_i6_no_certificate_proves_nobody(identify_member):
    """I6: TLS demands one, and the check does not rely on it."""
    with pytest.raises(PeerRejectedError, match="found no certificate; expected one for one node"):
        identify_member(None)


def certificate_for(authority, *names):
    """Return a certificate for any DNS names, as crowd never makes one."""
    issuer = x509.load_pem_x509_certificate(authority[0])
    pem, _ = make_node(*authority, "leads", "a")
    like = x509.load_pem_x509_certificate(pem)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(like.subject)
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(like.not_valid_before_utc)
        .not_valid_after(like.not_valid_after_utc)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
        .sign(serialization.load_pem_private_key(authority[1], None), hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Socket:
    """As Twisted's: `room` bytes are taken, some at a time; what is written besides waits."""

    connected, disconnecting = True, False

    def __init__(self, room, waiting=b""):
        self.room, self.taken = room, b""
        self.dataBuffer, self._tempDataBuffer = waiting, []

    def writeSomeData(self, data):
        if self.room is None:
            return ConnectionResetError()
        took = bytes(data[: min(self.room, 10)])
        self.taken += took
        self.room -= len(took)
        return len(took)

    def write(self, data):
        self._tempDataBuffer.append(data)


@pytest.mark.parametrize(
    ("room", "waiting", "taken"),
    [(100, b"", 35), (25, b"", 25), (0, b"", 0), (None, b"", 0), (100, b"before", 0)],
)
def test_all_that_a_socket_takes_is_sent_at_once(room, waiting, taken):
    """What it does not take waits in the transport, behind what waits there already."""
    data = bytes(range(35))
    socket = Socket(room, waiting)
    EagerSocket(socket).write(data)
    assert socket.taken == data[:taken]
    assert b"".join(socket._tempDataBuffer) == data[taken:]
