"""crowd's metadata, what it needs, and what it installs.

A lower bound is the version whose interface the code uses or the first one with wheels for
Python 3.13; only pysyncobj is pinned exactly, as the guard overrides its private methods and
each override was proven against this one version (docs/explanation/engine-defects.md).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "crowd/__init__.py").read_text("utf-8"))[1]

REQUIRES = [
    "pysyncobj==0.3.17",  # exactly: I1 rests on overrides of its private methods
    "Twisted>=24.10.0",  # first that supports Python 3.13
    "pyOpenSSL>=24.2.1",  # TLS between peers; what Twisted's `tls` extra asks for
    "service-identity>=24.1.0",  # both sides' identity, checked by crowd itself
    "idna>=3.7",  # host names of https consumers; what Twisted's `tls` extra asks for
    "cryptography>=43.0.0",  # certificates' validity in aware UTC; ed25519 signatures
    "klein>=24.8.0",  # handlers that may be coroutines, strict types
    "Werkzeug>=3.0.3",  # the rules beneath Klein; the cached match calls it directly
    "treq>=24.9.1",  # first that supports Python 3.13
    "hyperlink>=21.0.0",  # a URL that treq takes as it is
    "httptools>=0.6.4",  # llhttp 9, which refuses a Transfer-Encoding with a Content-Length
    "cbor2>=6.2.1",  # depth, indefinite lengths and what may be a key can be bounded
    "google-crc32c>=1.6.0",  # CRC-32C in C; wheels for 3.13
    "msgspec>=0.19.0",  # frozen structs; wheels for 3.13
    "prometheus-client>=0.21.0",
    "zope.interface>=6.4",  # wheels for 3.13 from 7.0; Twisted asks for it too
]

# What only some configurations need, imported where they do.
SCHEMA = [
    # route.content.schema; `retriever` and linear-time patterns. Before 1.0 each minor version
    # may change what is called (crowd/schema.py), so each one is tried before it is taken; older
    # ones were not.
    "jsonschema-rs>=0.61,<0.62",
]

TEST = [
    "h11>=0.16",  # a second opinion of what a request is: from 0.16 strict about chunks' ends
    *SCHEMA,
    "hypothesis>=6.100",
    "Flask>=3.0",  # a consumer of the kind that crowd must not be noticed by
    "cloudevents>=2.2",  # reads what is sent
    "standardwebhooks>=1.0.0",  # the oracle for signatures
    "requests>=2.32",  # clients that producers use
    "httpx>=0.27",
    "aiohttp>=3.10",
    "pytest>=8.2",
    "pytest-xdist>=3.6",  # two cores for what starts no processes
    "mypy>=1.13",
    "ruff>=0.8",
]

setup(
    name="crowd",
    version=VERSION,
    description="An HTTP front door that never loses what it has acknowledged.",
    long_description=(HERE / "README.md").read_text("utf-8")
    if (HERE / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    author="crowd contributors",
    license="MIT",
    python_requires=">=3.11",
    install_requires=REQUIRES,
    extras_require={"schema": SCHEMA, "test": TEST, "dev": TEST},
    # A mapping of the root, spelled out: an editable install is then one path entry, which
    # is what makes Twisted find twisted/plugins/ beside its own.
    package_dir={"": "."},
    packages=[*find_packages(include=["crowd", "crowd.*"]), "twisted.plugins"],
    package_data={"crowd": ["py.typed"]},
    entry_points={"console_scripts": ["crowd = crowd.cli:main"]},
    zip_safe=False,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Framework :: Twisted",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP",
    ],
)
