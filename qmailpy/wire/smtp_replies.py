"""
The replies L{qmailpy.wire.smtp} gives by itself: values where they are logged too, octets where nothing else is done.
"""

from __future__ import annotations

from qmailpy.values import Reply

MAIL_OK = b"250 2.1.0 Sender ok\r\n"
RCPT_OK = b"250 2.1.5 Recipient ok\r\n"
DATA_OK = b"354 End data with <CR><LF>.<CR><LF>\r\n"
CHUNK_OK = b"250 2.0.0 Chunk received\r\n"
MESSAGE_OK = b"250 2.0.0 Message accepted\r\n"
RESET_OK = b"250 2.0.0 Reset\r\n"
NOOP_OK = b"250 2.0.0 Ok\r\n"
VRFY = b"252 2.0.0 Cannot verify, but will take mail for it and try\r\n"
HELP = b"214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT: see RFC 5321\r\n"
BYE = Reply(221, "2.0.0", "Bye")
LINE_TOO_LONG = Reply(500, "5.5.2", "Command line too long")
BARE_LF = Reply(500, "5.5.2", "A command ends with CR LF")
UNKNOWN = Reply(500, "5.5.1", "Unknown command")
NOT_HERE = Reply(502, "5.5.1", "Command not implemented")
NO_ARGUMENT = Reply(501, "5.5.4", "Command takes no argument")
HELO_FIRST = Reply(503, "5.5.1", "EHLO or HELO first")
HELO_NAME = Reply(501, "5.5.4", "EHLO and HELO need your host name")
MAIL_FIRST = Reply(503, "5.5.1", "MAIL first")
NEEDS_UTF8 = Reply(553, "5.6.7", "Address is not ASCII and SMTPUTF8 was not asked for")
MAIL_TWICE = Reply(503, "5.5.1", "A transaction is open already")
MAIL_SYNTAX = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address>")
RCPT_FIRST = Reply(503, "5.5.1", "RCPT first")
RCPT_SYNTAX = Reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
NO_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
TOO_MUCH_JUNK = Reply(421, "4.7.0", "Too many commands without a message")
TOO_MANY_MESSAGES = Reply(421, "4.7.0", "Too many messages in this session")
TOO_EAGER = Reply(421, "4.7.0", "Too much sent without waiting for replies")
NOT_SMTP = Reply(421, "4.7.0", "This is SMTP")
NO_RECIPIENTS_LMTP = Reply(503, "5.5.1", "No valid recipients")  # RFC 2033 s.4.2
LHLO_FIRST = Reply(503, "5.5.1", "LHLO first")
EHLO_FIRST = Reply(503, "5.5.1", "EHLO first")
NOT_NOW = Reply(503, "5.5.1", "Not in a transaction")
NOT_NOW_BDAT = Reply(503, "5.5.1", "BDAT has begun")
BDAT_ONLY = Reply(503, "5.5.1", "A message with BODY=BINARYMIME comes by BDAT")
BDAT_SYNTAX = Reply(501, "5.5.4", "Syntax: BDAT size [LAST]")
ETRN_OK = b"250 2.0.0 Queuing started\r\n"
ETRN_SYNTAX = Reply(500, "5.5.4", "Syntax: ETRN domain")  # RFC 1985 s.5.3 has 500 for this
ETRN_DOMAIN = Reply(501, "5.5.4", "ETRN needs a domain")
ETRN_QUEUE = Reply(458, "4.5.4", "Queues have no names here")
XCLIENT_SYNTAX = Reply(501, "5.5.4", "Syntax: XCLIENT attribute=value ...")
XCLIENT_DENIED = Reply(550, "5.7.0", "Insufficient authorization")
TLS_OK = b"220 2.0.0 Ready to start TLS\r\n"
TLS_TWICE = Reply(503, "5.5.1", "TLS is active already")
TLS_FIRST = Reply(538, "5.7.11", "Encryption required: STARTTLS first")  # RFC 4954 s.6
TLS_INJECTED = Reply(421, "4.7.0", "Commands behind STARTTLS")
AUTH_OK = b"235 2.7.0 Authentication successful\r\n"
AUTH_TWICE = Reply(503, "5.5.1", "Authenticated already")
AUTH_UNKNOWN = Reply(504, "5.5.4", "Unknown authentication mechanism")
AUTH_SYNTAX = Reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
AUTH_BASE64 = Reply(501, "5.5.2", "Not base64")
AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
AUTH_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
