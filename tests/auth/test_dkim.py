"""
Tests for L{qmailpy.auth.dkim}: what it signs, the verifiers of dkimpy and Mail::DKIM accept.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from twisted.trial.unittest import SynchronousTestCase

from qmailpy.auth.dkim import DkimError, key_path, record, record_name, thd_make, thd_read_key, thd_signer

MAIL = (
    b"From: <tls@us.example>\r\nTo: <in@them.example>\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
    b"Message-ID: <a@us.example>\r\nSubject: Report Domain: them.example\r\n Submitter: us.example\r\n"
    b"TLS-Report-Domain: them.example\r\nContent-Type: text/plain\r\n\r\nwords  and words \r\n\r\n"
)

PERL = r"""
use Mail::DKIM::Verifier;
use Net::DNS;
no warnings;
my $text = $ENV{RECORD};
*Mail::DKIM::DNS::query = sub {
    my ($name) = @_;
    return () if $name ne $ENV{NAME};
    return Net::DNS::RR->new(name => $name, type => "TXT", txtdata => [unpack("(A250)*", $text)]);
};
my $verifier = Mail::DKIM::Verifier->new();
{ local $/; $verifier->PRINT(scalar <STDIN>); }
$verifier->CLOSE;
print $verifier->result_detail;
"""


class SignerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = os.path.abspath(self.mktemp())
        os.mkdir(self.folder)

    def signed(self, kind: str) -> tuple[bytes, str]:
        """A message, and the record that belongs to it."""
        path = os.path.join(self.folder, kind)
        thd_make(path, kind=kind)
        signer = thd_signer(path, "us.example", "tls2026")
        return signer.thd_sign(MAIL, report=True) + MAIL, record(thd_read_key(path), service="tlsrpt")

    def verified(self, mail: bytes, text: str) -> bool:
        self.asked: list[bytes] = []

        def look_up(name: bytes, timeout: float = 5) -> bytes:
            self.asked.append(name)
            return text.encode()

        return bool(dkim.verify(mail, dnsfunc=look_up, tlsrpt="strict"))

    def test_both_kinds_of_keys_are_verified_as_those_of_tls_reports(self) -> None:
        """RFC 8460 s.3: the record has the service type; RFC 8463 s.3, s.4."""
        for kind in ("rsa", "ed25519"):
            mail, text = self.signed(kind)
            self.assertTrue(self.verified(mail, text), kind)
            self.assertEqual(self.asked, [b"tls2026._domainkey.us.example."])
            self.assertTrue(text.startswith(f"v=DKIM1; k={kind}; s=tlsrpt; p="))

    def test_mail_dkim_verifies_them_too(self) -> None:
        """A verifier of other people's; it wants no service type but mail's, and knows no Ed25519."""
        mail, text = self.signed("rsa")
        environ = {"NAME": record_name("tls2026", "us.example"), "RECORD": text.replace(" s=tlsrpt;", "")}
        ran = subprocess.run(
            ["/usr/bin/perl", "-e", PERL],
            input=mail,
            capture_output=True,
            env={**os.environ, **environ},
            timeout=30,
            check=False,
        )
        self.assertEqual((ran.stdout, ran.stderr), (b"pass", b""))

    def test_whoever_changes_a_word_breaks_it(self) -> None:
        mail, text = self.signed("rsa")
        for old, new in (
            (b"words  and", b"words  or"),
            (b"Report Domain: them", b"Report Domain: thou"),
            (b"TLS-Report-Domain: them", b"TLS-Report-Domain: thou"),
            (b"From: <tls@us", b"From: <tsl@us"),
        ):
            self.assertIn(old, mail)
            self.assertFalse(self.verified(mail.replace(old, new), text), old)

    def test_nobody_can_add_a_second_sender_or_subject(self) -> None:
        """RFC 6376 s.8.15."""
        mail, text = self.signed("rsa")
        for added in (b"From: <x@bad.example>\r\n", b"Subject: win\r\n", b"To: <all@them.example>\r\n"):
            signature, rest = mail[: -len(MAIL)], MAIL
            self.assertFalse(self.verified(signature + added + rest, text), added)

    def test_folded_anew_it_is_still_good(self) -> None:
        """Relaxed: blanks on the way do not matter (RFC 6376 s.3.4.2)."""
        mail, text = self.signed("rsa")
        self.assertTrue(self.verified(mail.replace(b"Report Domain: them", b"Report\r\n Domain:  them"), text))

    def test_the_whole_body_is_signed(self) -> None:
        """RFC 8460 s.3: no l=, with which anything may be added."""
        mail, text = self.signed("rsa")
        self.assertNotIn(b" l=", mail[: -len(MAIL)])
        self.assertFalse(self.verified(mail + b"more\r\n", text))

    def test_a_key_is_its_owners_and_made_once(self) -> None:
        path = key_path(self.folder, "one", "one.pem")
        thd_make(path)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        found = thd_read_key(path)
        assert isinstance(found, rsa.RSAPrivateKey)
        self.assertEqual(found.key_size, 2048)
        self.assertRaises(FileExistsError, thd_make, path)
        thd_make(path + "2", kind="ed25519", gid=os.getegid())
        self.assertEqual(stat.S_IMODE(os.stat(path + "2").st_mode), 0o640)
        self.assertEqual(key_path("/h", "x"), "/h/etc/x.dkim.pem")

    def test_no_other_key_will_do(self) -> None:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        password = serialization.BestAvailableEncryption(b"secret")
        strong = rsa.generate_private_key(65537, 2048)
        for octets, said in (
            (b"words", "no PEM file"),
            (strong.private_bytes(*form, password), "no password"),
            (ec.generate_private_key(ec.SECP256R1()).private_bytes(*form, serialization.NoEncryption()), "neither"),
        ):
            path = Path(self.folder, "bad")
            path.write_bytes(octets)
            self.assertIn(said, str(self.assertRaises(DkimError, thd_read_key, str(path))))
        self.assertRaises(OSError, thd_read_key, self.folder)

    def test_its_secret_is_not_shown(self) -> None:
        path = os.path.join(self.folder, "one")
        thd_make(path, kind="ed25519")
        self.assertNotIn("secret", repr(thd_signer(path, "us.example", "x")))

    def test_what_is_no_message_is_not_signed(self) -> None:
        path = os.path.join(self.folder, "one")
        thd_make(path)
        signer = thd_signer(path, "us.example", "x")
        for bad in (b"", b"Subject: no sender\r\n\r\n", b"no header\r\n\r\n", b" From: <a@us.example>\r\n\r\n"):
            self.assertRaises(DkimError, signer.thd_sign, bad)
