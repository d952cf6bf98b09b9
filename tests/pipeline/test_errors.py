"""Messages never show the user information of an address."""

import pytest

from pipeline.errors import UserError, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:80/data", "http://***@host:80/data"),
        ("https://token@host", "https://***@host"),
        ("postgresql+psycopg2://user:p@ss@host/mlflow", "postgresql+psycopg2://***@host/mlflow"),
        ("mysql://user:with/slash?and#hash@host/mlflow", "mysql://***@host/mlflow"),
        ("HTTP://user:@host/a@b", "HTTP://***@host/a@b"),
        ("tried http://a:b@one, then 'http://c:d@two/x'", "tried http://***@one, then 'http://***@two/x'"),
        ("http://***@host", "http://***@host"),
        ("postgresql://host/db?user=me&password=secret&sslmode=no", "postgresql://host/db?user=me&password=***&sslmode=no"),
        ("https://host/data?Sig=abc%2F", "https://host/data?Sig=***"),
        # No user information: unchanged.
        ("http://host/a@b and me@host", "http://host/a@b and me@host"),
        ("http://127.0.0.1:9: refused; ask me@host", "http://127.0.0.1:9: refused; ask me@host"),
        ("sqlite:////home/a:b@c/mlflow.db", "sqlite:////home/a:b@c/mlflow.db"),
        ("/data/user:x@host", "/data/user:x@host"),
    ],
)  # fmt: skip
def test_user_information_is_hidden_and_the_rest_is_kept(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_the_message_of_an_error_is_redacted() -> None:
    assert str(UserError("http://user:secret@host does not answer")) == "http://***@host does not answer"
