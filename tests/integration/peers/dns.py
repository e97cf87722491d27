"""A name server that knows some hosts, for daemons of tests: C{[dns] servers = ["127.0.0.1:PORT"]}."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class NameServer:
    """Answers on a UDP port of 127.0.0.1, in a thread of its own, until it is closed."""

    def __init__(self, hosts: Mapping[str, str]) -> None:
        """@param hosts: name: IPv4 address. Other names do not exist."""
        self._hosts = hosts
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()
        self._socket.close()

    def _answer(self) -> None:
        while True:
            octets, client = self._socket.recvfrom(4096)
            if not octets:
                return
            query = dns.message.from_wire(octets)
            reply = dns.message.make_response(query)
            reply.flags |= dns.flags.RA
            question = query.question[0]
            name = question.name.to_text(omit_final_dot=True).lower()
            if name not in self._hosts:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            elif question.rdtype == 1:
                reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", self._hosts[name]))
            self._socket.sendto(reply.to_wire(), client)
