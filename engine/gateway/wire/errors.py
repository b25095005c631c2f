"""What can go wrong between this gateway and a replica, each by how much the replica has to do with it."""

from __future__ import annotations


class ConnectFailed(OSError):
    """No connection to the replica could be had: nothing was sent."""


class NoRoom(ConnectFailed):
    """This host has no descriptor, port or memory left for a connection: that says nothing of the replica."""


class BrokeOff(ConnectionError):
    """The replica closed or reset the connection before its answer was whole."""


class NotHttp(Exception):
    """What the replica answered is not HTTP/1.1."""


class TooLarge(Exception):
    """The answer is larger than whoever wants to have it whole can hold."""
