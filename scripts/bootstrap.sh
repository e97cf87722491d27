#!/bin/sh
# Brings a bare clone to where it can run: bootstrap.sh run | test.
#
# Makes the virtual environment $VENV (default .venv) with $PYTHON (default python3, at least 3.11) and installs qmailpy
# into it, editable; for "test" also the development tools, and the mail programs of Debian the tests talk to. What is
# missing and cannot be installed is named with the apt line that brings it; then the exit status is 1. A second run sees
# by a stamp that there is nothing to do.
set -eu
cd "$(dirname "$0")/.."
goal=${1:?usage: bootstrap.sh run | test}
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

fail() {
    echo "bootstrap: $1" >&2
    exit 1
}

command -v "$PYTHON" > /dev/null || fail "there is no $PYTHON; install it with: apt-get install python3 python3-venv"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or later is needed, $PYTHON is $("$PYTHON" -V 2>&1); name another one with PYTHON=..."

# --- the virtual environment ---
stamp="$VENV/.qmailpy-$goal"
state=$(cat setup.cfg pyproject.toml scripts/bootstrap.sh | sha256sum | cut -d' ' -f1)
if [ ! -x "$VENV/bin/python" ] || ! "$VENV/bin/python" -m pip --version > /dev/null 2>&1; then
    "$PYTHON" -c 'import ensurepip, venv' 2> /dev/null ||
        fail "$PYTHON cannot make virtual environments; install: apt-get install python3-venv"
    echo "bootstrap: making $VENV"
    "$PYTHON" -m venv --clear "$VENV"
fi
if [ "$(cat "$stamp" 2> /dev/null)" != "$state" ]; then
    what=.
    [ "$goal" = test ] && what='.[dev]'
    echo "bootstrap: installing qmailpy into $VENV"
    # compat: with the other kind of editable install twistd does not find the plugin.
    "$VENV/bin/python" -m pip install -qq --disable-pip-version-check \
        --editable "$what" --config-settings editable_mode=compat ||
        fail "pip could not install qmailpy; its words are above"
    printf '%s\n' "$state" > "$stamp"
fi
[ "$goal" = test ] || exit 0

# Other mail servers cannot be installed beside postfix: Debian lets one be there. They are unpacked into $VENV/peers and
# run from there, with their libraries and the users they insist on.
unpack_peers() {
    peers="$VENV/peers"
    [ -x "$peers/usr/sbin/exim4" ] && [ -x "$peers/usr/sbin/smtpd" ] && return
    [ "$(id -u)" = 0 ] || fail "the tests need Exim and OpenSMTPD below $peers; run this once as root"
    echo "bootstrap: unpacking exim4 and opensmtpd into $peers"
    mkdir -p "$peers/archives"
    (cd "$peers/archives" && { apt-get download -qq exim4-daemon-light opensmtpd 2> /dev/null ||
        { apt-get update -qq && apt-get download -qq exim4-daemon-light opensmtpd 2> /dev/null; }; }) ||
        fail "apt could not download exim4-daemon-light and opensmtpd"
    libraries=$(for archive in "$peers"/archives/*.deb; do dpkg-deb -f "$archive" Depends; done |
        tr ',|' '\n\n' | sed -n 's/^ *\(lib[^ (]*\).*/\1/p' | sort -u)
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $libraries > /dev/null ||
        fail "apt could not install them; by hand: apt-get install $libraries"
    for archive in "$peers"/archives/*.deb; do dpkg-deb -x "$archive" "$peers"; done
    for user in Debian-exim opensmtpd opensmtpq; do
        id "$user" > /dev/null 2>&1 ||
            useradd --system --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
    done
}

# A mail client of the JavaScript world, which Debian's packages lack.
fetch_nodemailer() {
    node="$VENV/peers/node"
    [ -d "$node/node_modules/nodemailer" ] && return
    echo "bootstrap: fetching nodemailer into $node"
    mkdir -p "$node"
    npm install --prefix "$node" --silent --no-audit --no-fund --ignore-scripts nodemailer@6 > /dev/null ||
        fail "npm could not fetch nodemailer; by hand: npm install --prefix $node nodemailer@6"
}

# --- real peers for the tests: command and package ---
PATH=$PATH:/usr/sbin:/sbin
missing=
while read -r command package; do
    command -v "$command" > /dev/null || missing="$missing $package"
done << END
postfix postfix
smtp-sink postfix
swaks swaks
curl curl
openssl openssl
gsasl gsasl
dovecot dovecot-pop3d
/usr/lib/dovecot/lmtp dovecot-lmtpd
fetchmail fetchmail
mutt mutt
getmail getmail6
ldapsearch ldap-utils
slapd slapd
knotd knot
unbound unbound
msmtp msmtp
faketime faketime
snmpd snmpd
snmpwalk snmp
node nodejs
npm npm
END
perl -MMail::DKIM -e 1 2> /dev/null || missing="$missing libmail-dkim-perl"
# swaks speaks TLS and all of SASL only with these
perl -MNet::SSLeay -MAuthen::SASL -e 1 2> /dev/null || missing="$missing libnet-ssleay-perl libauthen-sasl-perl"
missing=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
missing=${missing% }
if [ -z "$missing" ]; then
    unpack_peers
    fetch_nodemailer
    exit 0
fi

line="apt-get install --no-install-recommends $missing"
command -v apt-get > /dev/null || fail "the tests need the programs of Debian's packages: $missing"
[ "$(id -u)" = 0 ] || fail "the tests need more programs; as root: $line"
case " $missing " in
*" postfix "*)
    # Installing it would throw another mail server off this machine; that is for its owner to decide.
    other=$(dpkg-query -W -f '${Package} ${Provides} ${db:Status-Status}\n' 2> /dev/null |
        awk '/mail-transport-agent/ && $NF == "installed" {print $1; exit}')
    [ -z "$other" ] || fail "the tests need postfix, which would replace $other here; if that may be: $line"
    ;;
esac
echo "bootstrap: installing $missing"
# Nothing is started: no service of ours to look after, and the tests start what they need on ports of their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
fi
export DEBIAN_FRONTEND=noninteractive
if command -v debconf-set-selections > /dev/null; then
    debconf-set-selections << END
postfix postfix/main_mailer_type select No configuration
slapd slapd/no_configuration boolean true
END
fi
# shellcheck disable=SC2086
apt-get install -qq -y --no-install-recommends $missing > /dev/null || {
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends $missing > /dev/null
} || fail "apt could not install them; by hand: $line"
unpack_peers
fetch_nodemailer
