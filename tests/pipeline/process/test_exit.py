"""The exit code and the message of a process."""

import pytest

from pipeline.errors import UserError
from pipeline.process.exit import run_cli

MEMORY = "error: not enough memory; try a smaller evaluate.chunk or train.batch_size, or smaller layers\n"


class UsageError(UserError):
    exit_code = 2


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("no such data set"), 1, "error: no such data set\n"),
        (UsageError("no such key"), 2, "error: no such key\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "error: [Errno 2] No such file: 'x'\n"),
        (KeyboardInterrupt(15), 143, "interrupted\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError(), 1, MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"), 1, MEMORY),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_message(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    def main() -> None:
        raise error

    assert run_cli(main) == code
    assert capsys.readouterr().err == message


def test_success_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: None) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ZeroDivisionError("division by zero")])
def test_any_other_error_is_raised(error: Exception) -> None:
    def main() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        run_cli(main)
