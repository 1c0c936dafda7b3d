"""What hinders a program is an error that says how to go on, or no answer."""

import pytest

from certbot_postfix.errors import ProgramError, UnusableProgramError
from certbot_postfix.system.programs import beginning, run


def test_a_program_that_does_not_end_is_stopped_and_named():
    with pytest.raises(ProgramError) as caught:
        run(["sleep", "30"], timeout=0.05)

    assert caught.value.message == "sleep 30 did not end within 0.05 seconds"


@pytest.mark.parametrize("kind", ["missing", "directory", "not for this machine"])
def test_a_program_that_cannot_be_started_is_named_with_what_to_do(tmp_path, kind):
    program = tmp_path / "program"
    if kind == "directory":
        program.mkdir()
    elif kind == "not for this machine":
        program.write_bytes(b"\x7fELF")
        program.chmod(0o755)

    with pytest.raises(UnusableProgramError) as caught:
        run([str(program)])

    reason = {
        "missing": "was not found",
        "directory": "cannot be executed: permission denied",
        "not for this machine": "cannot be executed: exec format error",
    }[kind]
    assert caught.value.message == f"the program {program} {reason}"
    assert caught.value.hint


def test_of_a_program_that_prints_without_end_the_beginning_is_read():
    assert beginning(["yes"], 4, timeout=10) == b"y\ny\n"


def test_a_program_that_is_not_there_has_printed_nothing(tmp_path):
    assert beginning([str(tmp_path / "none")], 4, timeout=10) == b""
