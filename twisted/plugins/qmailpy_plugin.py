"""Makes C{twistd qmailpy} known."""

from twisted.application.service import ServiceMaker

daemon = ServiceMaker("qmailpy", "qmailpy.app.tap", "An all-in-one mail server", "qmailpy")
