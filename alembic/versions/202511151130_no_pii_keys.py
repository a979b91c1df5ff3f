r"""Payloads of events and dead events have no key that names PII, at any depth.

Ingestion strips PII before it writes; this is the layer beneath. A key names PII by its last words:
customerEmail and billing_address_2 do, emailed_at, product_name and zip do not. Words are runs of
ASCII letters and digits, also divided where a capital follows a lower-case letter or a digit; case
and a number at the end do not matter. Values are not looked at.

Keys are found in the text of the document, which for jsonb has one form: a key follows `{` or `, `
and is followed by `: `, and quotes inside a string are escaped. Walking it by jsonpath takes six
times as long, at every ingest. Few documents need even that: most have no key that ends like one
that names PII, which a small pattern finds out from the text read backwards, from the end of each
key. It may only err on the safe side. The function is not SQL because PostgreSQL would parse that
anew for each statement.

Rows with such keys stop the upgrade with a message that names some, by id and not by content;
forced row level security is lifted meanwhile, inside the transaction, for the search.

Source: 001 E-03 asks for a layer in the database; 000 Question 7 lists what is to be stripped.
"""

from typing import Any

from alembic import op

revision: str = "202511151130"
down_revision: str | None = "202511151120"
branch_labels: str | None = None
depends_on: str | None = None

COLUMNS = (
    ("attribution_events", "raw_payload"),
    ("dead_events", "raw_payload"),
    ("dead_events", "error_detail"),
)
# How to strip keys: repairs of events take effect from a revision on, dead events are app_rw's.
TABLES = {
    "attribution_events": (
        "Upgrade to 202511151030 first, from where on repairs take effect; strip these keys as "
        "migration_owner with app.current_tenant_id set to the tenant_id of the rows; then "
        "upgrade to head."
    ),
    "dead_events": (
        "Strip these keys as app_rw with app.current_tenant_id set to the tenant_id of the rows; "
        "then upgrade again."
    ),
}

# The last words of a key, whatever comes before them.
LAST_WORDS = (
    "email",
    "emails",
    "e mail",
    "email address",
    "phone",
    "phones",
    "phone number",
    "phone numbers",
    "telephone",
    "mobile number",
    "address",
    "addresses",
    "address line",
    "street",
    "ip",
    "ips",
    "ip address",
    "ipv4",
    "ipv6",
    "remote addr",
    "first name",
    "middle name",
    "last name",
    "full name",
    "given name",
    "family name",
    "surname",
    "user name",
    "customer name",
    "contact name",
    "recipient name",
    "payer name",
    "buyer name",
    "billing name",
    "shipping name",
    "cardholder name",
    "birthday",
    "birth date",
    "date of birth",
    "ssn",
    "passport number",
    "device id",
)
# All words of a key.
WHOLE = ("name", "names", "mobile")

# Keys that payloads commonly have. Endings are long enough to tell a key that names PII from these.
COMMON = (
    "campaign name",
    "date",
    "discount",
    "line",
    "number",
    "order number",
    "orders",
    "price id",
    "product name",
    "retail",
    "source id",
    "source name",
    "state",
    "status",
    "title",
    "user id",
)

# Groups are plain ones: SQLAlchemy would take what follows the colon of a (?:..) for a parameter.
CAMEL = "([a-z0-9])([A-Z])"
ESCAPE = r'\\(["\\bfnrt]|u[0-9a-f]{4})'
SEPARATOR = rf'([^a-z0-9"\\]|{ESCAPE})'
ANYTHING = rf'([^"\\]|{ESCAPE})*'


def key_pattern() -> str:
    """A regular expression for a key that names PII, in the text of a document in lower case."""
    last = "|".join(f"{SEPARATOR}*".join(words.split()) for words in LAST_WORDS)
    whole = "|".join(WHOLE)
    return (
        rf'(\{{|, )"(({ANYTHING}{SEPARATOR})?({last})|{SEPARATOR}*({whole}))'
        rf'({SEPARATOR}|[0-9])*": '
    )


def ending(words: str) -> str:
    """The least that tells a key with these last words from a common one: three letters or more."""
    words = words.rstrip("0123456789").removesuffix("s")
    for letters in range(3, len(words)):
        end = words[-letters:].lstrip()
        if not any(key.replace(" ", "").endswith(end.replace(" ", "")) for key in COMMON):
            return end
    return words


def endings_pattern() -> str:
    """A regular expression for the text backwards: a key ends like one that names PII, or escapes.

    It is kept small, because PostgreSQL builds its automaton anew at each call.
    """
    letters: dict[str, Any] = {}
    for words in (*LAST_WORDS, *(f'" {word}' for word in WHOLE)):
        following = letters
        for letter in reversed(ending(words)):
            following = following.setdefault(letter, {})
        following[""] = {}
    return rf'\\| :"[^a-z"]*s?{alternatives(letters)}'


def alternatives(letters: dict[str, Any]) -> str:
    if "" in letters:
        return ""
    found = [
        ('[^a-z"]*' if letter == " " else letter) + alternatives(following)
        for letter, following in letters.items()
    ]
    return f"({'|'.join(found)})" if len(found) > 1 else found[0]


def upgrade() -> None:
    op.execute(f"""
        CREATE FUNCTION names_pii(document jsonb)
        RETURNS boolean
        LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
        AS $$
        BEGIN
            -- Most documents are done with the first line; the second is what counts.
            RETURN reverse(document::text COLLATE "C") ~* '{endings_pattern()}'
                AND lower(regexp_replace(document::text COLLATE "C", '{CAMEL}', '\\1_\\2', 'g'))
                    ~ '{key_pattern()}';
        END
        $$
    """)
    op.execute("""
        COMMENT ON FUNCTION names_pii(jsonb) IS
            'Whether a document has a key, at any depth, whose words name personal data such as '
            'email, phone, name, address or ip.'
    """)
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    for table, column in COLUMNS:
        refuse_rows_with_pii(table, column)
        op.execute(f"""
            ALTER TABLE {table}
                ADD CONSTRAINT ck_{table}_{column}_names_no_pii
                CHECK (NOT names_pii({column}))
        """)
        op.execute(f"""
            COMMENT ON CONSTRAINT ck_{table}_{column}_names_no_pii ON {table} IS
                'No key of the document names personal data, at any depth.'
        """)
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    for table, column in reversed(COLUMNS):
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_{column}_names_no_pii")
    op.execute("DROP FUNCTION names_pii(jsonb)")


def refuse_rows_with_pii(table: str, column: str) -> None:
    op.execute(f"""
        DO $$
        DECLARE
            pii_count bigint;
            examples text;
        BEGIN
            SELECT count(*), string_agg(id::text, ', ' ORDER BY id) FILTER (WHERE n <= 5)
            INTO pii_count, examples
            FROM (
                SELECT id, row_number() OVER (ORDER BY id) AS n
                FROM {table}
                WHERE names_pii({column})
            ) with_pii;

            IF pii_count > 0 THEN
                RAISE EXCEPTION '{table}: % rows have a key in {column} that names personal '
                    'data, for example %',
                        pii_count, examples
                    USING ERRCODE = 'check_violation',
                          HINT = '{TABLES[table]}';
            END IF;
        END
        $$
    """)
