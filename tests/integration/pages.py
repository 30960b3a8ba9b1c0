"""A server of pages, and a real browser that opens them: what its scripts found comes back."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FOUND_WITHIN_S = 60.0


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        page = self.server.page.encode() if self.path == "/" else b""
        self.send_response(200 if page else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.found.put(json.loads(text))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


class Pages:
    """Serves one page at a time, on loopback, as http://127.0.0.1:PORT and http://localhost:PORT."""

    def __init__(self, directory):
        self._directory = directory
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
        self._server.found = Queue()
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def run(self, script, host="127.0.0.1"):
        """Have the browser run a script's `found()` in a page; return what it returns."""
        self._server.page = f"""<!doctype html><title>a page</title><script>{script}
            found().catch(error => ({{error: String(error)}}))
                .then(it => fetch("/", {{method: "POST", body: JSON.stringify(it)}}));
            </script>"""
        browser = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
                "--disable-dev-shm-usage", "--remote-debugging-port=0",
                f"--user-data-dir={self._directory}", f"http://{host}:{self.port}/",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return self._server.found.get(timeout=FOUND_WITHIN_S)
        finally:
            browser.terminate()
            browser.wait(20)

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
