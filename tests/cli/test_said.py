"""What another server said, in a line."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from qmailpy.cli.said import Said, answer, said, way

_TLS = "TLSv1.3/TLS_AES_256_GCM_SHA384 mta-sts"
_REFUSED = "TCP active open: Failed connect() 192.0.2.1:25  Error: connection refused"


class SaidTests(SynchronousTestCase):
    def test_an_answer_begins_with_who_gave_it(self) -> None:
        """A column that is cut has the words, and not the numbers of ports."""
        text = f"dns;mx.example.org (TCP|198.51.100.7|4012|192.0.2.1|25) (mx.example.org (ESMTP) ready) ({_TLS}) smtp;"
        words = "451 4.2.1 come later (greylisted) smtp;x"
        self.assertEqual(said(text + words), Said("mx.example.org [192.0.2.1]", _TLS, words))
        self.assertEqual(answer(text + words), f"mx.example.org [192.0.2.1]: {words}")

    def test_a_literal_and_a_socket_are_named_once(self) -> None:
        self.assertEqual(
            answer("dns;[192.0.2.1] (TCP|192.0.2.9|1|192.0.2.1|25) (hi) smtp;550 no"), "[192.0.2.1]: 550 no"
        )
        self.assertEqual(answer("dns;store (UNIX) (hi) smtp;450 busy"), "store: 450 busy")

    def test_what_we_say_of_a_server_names_it(self) -> None:
        text = "dns;[192.0.2.1] (TCP|192.0.2.9|1|192.0.2.1|25) (hi ESMTP) TLS is required: not offered"
        self.assertEqual(answer(text), "[192.0.2.1]: TLS is required: not offered")

    def test_what_is_no_answer_stays_as_it_is(self) -> None:
        for text in ("", _REFUSED, "451 4.4.7 Waiting for the other pieces", "dns;broken (TCP smtp;"):
            self.assertEqual((said(text), answer(text)), (Said("", "", text), text))

    def test_what_stands_before_an_answer_stays_there(self) -> None:
        text = "2 attempts failed; dns;[192.0.2.1] (TCP|192.0.2.9|1|192.0.2.1|25) (hi) smtp;450 4.2.0 no"
        self.assertEqual(answer(text), "2 attempts failed; [192.0.2.1]: 450 4.2.0 no")

    def test_mail_that_is_converted_first_goes_on_from_there(self) -> None:
        found = [way(host) for host in ("far.example", "", "local ", "tcp_local far.example")]
        self.assertEqual(found, ["far.example", "", "local", "tcp_local to far.example"])
