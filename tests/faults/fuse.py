"""A `MemoryDisk` as a mounted file system: Linux's FUSE protocol, spoken on /dev/fuse.

Decides how the kernel's requests become calls of the disk, and when a flush is answered:
some milliseconds after it was asked for, as a disk takes them, with other requests going on
meanwhile. Without that nearly nothing would be unflushed when the power goes.

No library and no compiler: the protocol (include/uapi/linux/fuse.h, version 7.31) is a header
and a struct for each request. Files are opened for direct I/O, so that the kernel keeps no
page that this disk has lost, and names and attributes are asked for anew each time.

    python -m tests.faults.fuse MOUNTPOINT SYNC_MS

Then on standard input, a line each, and each answered with a line of JSON:

    off SEED  the power goes at this moment: says what was lost; whatever a process that still
              runs asks for fails with EIO from here on
    on        the power is back
    lie       from here on every flush is answered and keeps nothing

Ends with its input. Root only.
"""

from __future__ import annotations

import ctypes
import errno
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tests.faults.leftovers import MOUNT
from tests.faults.memory_disk import CAPACITY_BYTES, FILE_MODE, Inode, MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Callable

WRITE_BYTES_MAX = 128 << 10
BUFFER_BYTES = WRITE_BYTES_MAX + (64 << 10)
BLOCK_BYTES = 4096

IN = struct.Struct("<IIQQIIIHH")
OUT = struct.Struct("<IiQ")
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
ENTRY_HEAD = struct.Struct("<QQQQII")
ATTR_HEAD = struct.Struct("<QII")
SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
READ = struct.Struct("<QQIIQII")
FALLOCATE = struct.Struct("<QQQII")
STATFS = struct.Struct("<QQQQQIII28x")

BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
DIRECT_IO = 1
SIZE_GIVEN = 1 << 3
SILENT = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET: the kernel waits for no answer
RELEASE, DESTROY = 18, 38
MS_NOSUID, MS_NODEV = 2, 4


class Later:
    """An answer that comes when its time has come."""

    def __init__(self, done: Callable[[], None]) -> None:
        self.done = done


class Fuse:
    """One mount. Everything happens in `serve`, in one thread."""

    def __init__(self, disk: MemoryDisk, mountpoint: str, sync_s: float) -> None:
        self._disk = disk
        self._sync_s = sync_s
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(f"{MOUNT}-{os.getppid()}".encode(), mountpoint.encode(), b"fuse", MS_NOSUID | MS_NODEV,
                      options.encode()):  # fmt: skip
            number = ctypes.get_errno()
            raise OSError(number, f"cannot mount: {os.strerror(number)}")
        self._off = False
        self._due: list[tuple[float, int, int, Callable[[], None]]] = []
        self._calls: dict[int, Callable[[int, bytes], Any]] = {
            26: self._init, 1: self._lookup, 3: self._getattr, 4: self._setattr, 8: self._mknod,
            9: self._mkdir, 10: self._unlink, 11: self._rmdir, 12: self._rename, 13: self._link,
            14: self._open, 15: self._read, 16: self._write, 17: self._statfs, 18: self._release,
            20: self._fsync, 25: self._nothing, 27: self._opendir, 28: self._readdir,
            29: self._nothing, 30: self._fsync, 35: self._create, 43: self._fallocate,
            45: self._rename2,
        }  # fmt: skip

    def serve(self) -> None:
        """Answer the kernel and standard input until either ends."""
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(0, select.POLLIN)
        while True:
            wait_ms = None
            if self._due:
                wait_ms = max(0.0, (self._due[0][0] - time.monotonic()) * 1e3)
            ready = dict(poll.poll(wait_ms))
            self._answer_due()
            if 0 in ready and not self._command():
                return
            if ready.get(self._device) and not self._request():
                return

    def _command(self) -> bool:
        words = os.read(0, 4096).decode().split()
        said: dict[str, Any] = {}
        if words[:1] == ["off"]:
            said = asdict(self._disk.lose(random.Random(words[1])))
            self._off = True
            for _, _, unique, _ in self._due:
                self._reply(unique, errno.EIO, b"")
            self._due.clear()
        elif words == ["on"]:
            self._off = False
        elif words == ["lie"]:
            self._disk.lies = True
        else:
            return False
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        return True

    def _request(self) -> bool:
        try:
            data = os.read(self._device, BUFFER_BYTES)
        except OSError as error:
            # ENOENT: a request that was interrupted; ENODEV: unmounted.
            return error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN)
        _, opcode, unique, node, _, _, _, _, _ = IN.unpack_from(data)
        if opcode in SILENT:
            return True
        call = self._calls.get(opcode)
        number, answer = errno.ENOSYS, b""
        if opcode == DESTROY:
            number = 0
        elif self._off and opcode != RELEASE:
            number = errno.EIO
        elif call is not None:
            try:
                result = call(node, data[IN.size :])
            except OSError as error:
                number = error.errno or errno.EIO
            else:
                if isinstance(result, Later):
                    due_s = time.monotonic() + self._sync_s
                    heapq.heappush(self._due, (due_s, unique, unique, result.done))
                    return True
                number, answer = 0, result
        self._reply(unique, number, answer)
        return opcode != DESTROY

    def _answer_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            _, _, unique, done = heapq.heappop(self._due)
            done()
            self._reply(unique, 0, b"")

    def _reply(self, unique: int, number: int, answer: bytes) -> None:
        try:
            os.write(self._device, OUT.pack(OUT.size + len(answer), -number, unique) + answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # else: who asked was killed meanwhile
                raise

    # --- Requests -------------------------------------------------------------------------------

    def _init(self, _: int, data: bytes) -> bytes:
        _, minor, ahead, flags = struct.unpack_from("<IIII", data)
        return INIT_OUT.pack(
            7, min(minor, 31), ahead, flags & (BIG_WRITES | MAX_PAGES), 16, 12,
            WRITE_BYTES_MAX, 1, WRITE_BYTES_MAX // BLOCK_BYTES, 0, 0,
        )  # fmt: skip

    def _attributes(self, inode: Inode) -> bytes:
        size = len(inode.data)
        links = self._disk.links(inode.number) + inode.is_directory
        return ATTR.pack(inode.number, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0,
                         inode.mode, links, 0, 0, 0, BLOCK_BYTES, 0)  # fmt: skip

    def _entry(self, inode: Inode) -> bytes:
        return ENTRY_HEAD.pack(inode.number, 1, 0, 0, 0, 0) + self._attributes(inode)

    def _lookup(self, node: int, data: bytes) -> bytes:
        return self._entry(self._disk.lookup(node, _name(data)))

    def _getattr(self, node: int, _: bytes) -> bytes:
        return ATTR_HEAD.pack(0, 0, 0) + self._attributes(self._disk.inode(node))

    def _setattr(self, node: int, data: bytes) -> bytes:
        valid, _, _, size, *_ = SETATTR.unpack_from(data)
        if valid & SIZE_GIVEN:
            self._disk.resize(node, size)
        return self._getattr(node, b"")

    def _mknod(self, node: int, data: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", data)
        return self._entry(self._disk.make(node, _name(data[16:]), mode))

    def _mkdir(self, node: int, data: bytes) -> bytes:
        (mode,) = struct.unpack_from("<I", data)
        return self._entry(self._disk.make(node, _name(data[8:]), 0o040000 | mode))

    def _unlink(self, node: int, data: bytes) -> bytes:
        self._disk.remove(node, _name(data), directory=False)
        return b""

    def _rmdir(self, node: int, data: bytes) -> bytes:
        self._disk.remove(node, _name(data), directory=True)
        return b""

    def _rename(self, node: int, data: bytes) -> bytes:
        (target,) = struct.unpack_from("<Q", data)
        old, new = data[8:].split(b"\0")[:2]
        self._disk.rename(node, old.decode(), target, new.decode())
        return b""

    def _rename2(self, node: int, data: bytes) -> bytes:
        target, flags = struct.unpack_from("<QI", data)
        if flags:
            raise OSError(errno.EINVAL, "no flags of renameat2 are known here")
        return self._rename(node, struct.pack("<Q", target) + data[16:])

    def _link(self, node: int, data: bytes) -> bytes:
        (number,) = struct.unpack_from("<Q", data)
        return self._entry(self._disk.link(number, node, _name(data[8:])))

    def _open(self, node: int, _: bytes) -> bytes:
        self._disk.inode(node).opened += 1
        return struct.pack("<QII", 0, DIRECT_IO, 0)

    def _create(self, node: int, data: bytes) -> bytes:
        _, mode = struct.unpack_from("<II", data)
        inode = self._disk.make(node, _name(data[16:]), FILE_MODE | mode)
        return self._entry(inode) + self._open(inode.number, b"")

    def _release(self, node: int, _: bytes) -> bytes:
        inode = self._disk.inodes.get(node)
        if inode is not None and inode.opened:
            inode.opened -= 1
        return b""

    def _opendir(self, node: int, _: bytes) -> bytes:
        self._disk.inode(node)
        return struct.pack("<QII", 0, 0, 0)

    def _read(self, node: int, data: bytes) -> bytes:
        _, offset, size, *_ = READ.unpack_from(data)
        return self._disk.read(node, offset, size)

    def _write(self, node: int, data: bytes) -> bytes:
        _, offset, size, *_ = READ.unpack_from(data)
        self._disk.write(node, offset, data[READ.size : READ.size + size])
        return struct.pack("<II", size, 0)

    def _fallocate(self, node: int, data: bytes) -> bytes:
        _, offset, length, mode, _ = FALLOCATE.unpack_from(data)
        if mode:
            raise OSError(errno.EOPNOTSUPP, "only plain reservations")
        if offset + length > len(self._disk.inode(node).data):
            self._disk.resize(node, offset + length)
        return b""

    def _fsync(self, node: int, _: bytes) -> Later:
        return Later(self._disk.flush(node))

    def _readdir(self, node: int, data: bytes) -> bytes:
        _, offset, size, *_ = READ.unpack_from(data)
        names = [(".", node), ("..", node), *self._disk.inode(node).names.items()]
        out = b""
        for place, (name, number) in enumerate(names[offset:], offset + 1):
            raw = name.encode()
            kind = self._disk.inode(number).mode >> 12
            one = struct.pack("<QQII", number, place, len(raw), kind) + raw
            one += bytes(-len(one) % 8)
            if len(out) + len(one) > size:
                break
            out += one
        return out

    def _statfs(self, _: int, __: bytes) -> bytes:
        blocks = CAPACITY_BYTES // BLOCK_BYTES
        free = blocks - self._disk.used_bytes() // BLOCK_BYTES
        return STATFS.pack(blocks, free, free, 1 << 20, 1 << 20, BLOCK_BYTES, 255, BLOCK_BYTES)

    def _nothing(self, _: int, __: bytes) -> bytes:
        return b""


def _name(data: bytes) -> str:
    return data.partition(b"\0")[0].decode()


def main() -> None:
    """Mount and serve."""
    mountpoint, sync_ms = sys.argv[1:]
    Fuse(MemoryDisk(), mountpoint, float(sync_ms) / 1e3).serve()


if __name__ == "__main__":
    main()
