"""Where secrets are read, when again, and what is said of one that cannot be."""

from __future__ import annotations

import os
import traceback

import pytest
from twisted.internet.task import Clock

from crowd.delivery.forms.signing import SymmetricKey
from crowd.delivery.secrets import FILE_BYTES_MAX, READ_AGAIN_S, READ_EVERY_S, Keyring
from crowd.errors import SecretUnreadableError

ONE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TWO = "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"


def signed(keyring):
    return [key.sign(b"x") for key in keyring.current()]


def test_files_and_variables_in_their_order(tmp_path):
    """A key for each reference; a newline at a file's end is no part of it."""
    (tmp_path / "one").write_text(ONE + "\n")
    keyring = Keyring([f"file:{tmp_path}/one", "env:TWO"], Clock().seconds, {"TWO": TWO}.get)
    keys = keyring.current()
    assert [type(key) for key in keys] == [SymmetricKey] * 2
    assert keys[0].sign(b"x") != keys[1].sign(b"x")
    assert keyring.current() is keys


def test_no_secrets_no_keys():
    """Nothing is read for a consumer without."""
    assert Keyring([], Clock().seconds).current() == ()


def test_a_changed_file_signs_a_minute_later(tmp_path):
    """No one has to tell a node."""
    clock, path = Clock(), tmp_path / "secret"
    path.write_text(ONE)
    keyring = Keyring([f"file:{path}"], clock.seconds)
    old = signed(keyring)
    path.write_text(TWO)
    clock.advance(READ_EVERY_S - 1)
    assert signed(keyring) == old
    clock.advance(1)
    assert signed(keyring) != old


def test_one_that_is_missing_may_come_and_go(tmp_path):
    """It is looked for again soon; while it is gone, nothing is signed, and it is said which."""
    clock, path = Clock(), tmp_path / "secret"
    keyring = Keyring([f"file:{path}"], clock.seconds)
    for _ in range(3):
        with pytest.raises(SecretUnreadableError) as caught:
            keyring.current()
    assert str(caught.value) == (
        f"the secret file:{path} cannot be used: No such file or directory"
    )
    assert len(traceback.extract_tb(caught.value.__traceback__)) == 2  # it does not grow
    path.write_text(ONE)
    with pytest.raises(SecretUnreadableError):
        keyring.current()
    clock.advance(READ_AGAIN_S)
    assert len(keyring.current()) == 1
    path.unlink()
    clock.advance(READ_EVERY_S)
    with pytest.raises(SecretUnreadableError):
        keyring.current()


def make_pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.mkdir(), "expected a file"),
        (make_pipe, "expected a file"),
        (lambda path: path.write_text(""), "expected whsec_ or whsk_"),
        (lambda path: path.write_text("hunter2-hunter2"), "expected whsec_ or whsk_"),
        (lambda path: path.write_text("whsec_hunter2-hunter2"), "expected base64 after whsec_"),
        (lambda path: path.write_text("x" * (FILE_BYTES_MAX + 1)), "at most 4096 bytes"),
    ],
)
def test_what_cannot_be_used(tmp_path, make, why):
    """The reference and what is expected, and nothing of what is there. No pipe is waited for."""
    path = tmp_path / "secret"
    make(path)
    keyring = Keyring(["env:ONE", f"file:{path}"], Clock().seconds, {"ONE": ONE}.get)
    with pytest.raises(SecretUnreadableError, match=why) as caught:
        keyring.current()
    assert caught.value.reference == f"file:{path}"
    shown = "".join(traceback.format_exception(caught.value))
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    shown += repr(
        [frame.f_locals for frame in frames if "crowd/delivery" in frame.f_code.co_filename]
    )
    assert "hunter2" not in shown
    assert ONE[6:] not in shown


def test_a_variable_that_is_not_there():
    """It is named."""
    with pytest.raises(SecretUnreadableError, match="env:NONE cannot be used: there is no such"):
        Keyring(["env:NONE"], Clock().seconds, {}.get).current()
    with pytest.raises(SecretUnreadableError, match="file:/path or env:NAME"):
        Keyring(["NONE"], Clock().seconds, {}.get).current()


def test_the_environment_itself(monkeypatch):
    """By default a variable is the process's own."""
    monkeypatch.setenv("CROWD_TEST_SECRET", ONE)
    assert len(Keyring(["env:CROWD_TEST_SECRET"], Clock().seconds).current()) == 1


def test_what_cannot_be_read_is_told_when_it_is_looked_for(tmp_path):
    """Not for each request that would need it."""
    told, clock = [], Clock()
    keyring = Keyring([f"file:{tmp_path}/none"], clock.seconds, tell=told.append)
    for _ in range(3):
        with pytest.raises(SecretUnreadableError):
            keyring.current()
    assert [error.reference for error in told] == [f"file:{tmp_path}/none"]
    clock.advance(READ_AGAIN_S)
    with pytest.raises(SecretUnreadableError):
        keyring.current()
    assert len(told) == 2
