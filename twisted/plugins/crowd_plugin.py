"""Tells `twistd` about crowd: ``twistd -n crowd`` builds what `crowd.service` makes."""

from twisted.application.service import ServiceMaker

crowd = ServiceMaker(
    "crowd",
    "crowd.service",
    "An HTTP front door that never loses what it has acknowledged.",
    "crowd",
)
