"""C{qmailpy directory schema}: what attributes and object classes there are, for other LDAP servers and for people."""

from __future__ import annotations

import click

from qmailpy.directory import subschema


@click.command("schema")
@click.option(
    "--format",
    "form",
    type=click.Choice(("ldif", "table")),
    default="ldif",
    show_default=True,
    help="ldif: what OpenLDAP's cn=config takes; table: what docs/directory.md shows.",
)
def schema(form: str) -> None:
    """Print the directory's schema."""
    click.echo(subschema.ldif() if form == "ldif" else subschema.markdown(), nl=False)
