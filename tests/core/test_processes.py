"""One process by itself; several are in tests/test_processes.py."""

import pytest

from hfgen.cli.parser import Parser
from hfgen.core.processes import is_first, is_first_of_launch, launched, on_first, shared, tell, together

LAUNCH = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def second(monkeypatch):
    """The environment of the second of two processes."""
    for name, value in LAUNCH.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)


def test_one_alone_does_everything(capsys):
    with together():
        done = list(shared("abc", lambda units: (unit.upper() for unit in units)))
        assert is_first()
        assert on_first(lambda: 7) == 7
        tell("a line")
    assert done == [("a", "A"), ("b", "B"), ("c", "C")]
    assert capsys.readouterr().err == "hfgen: a line\n"


def test_its_errors_stay_what_they_are():
    with together(), pytest.raises(ZeroDivisionError):
        on_first(lambda: 1 / 0)
    with together(), pytest.raises(ZeroDivisionError):
        list(shared([0], lambda units: (1 / unit for unit in units)))


@pytest.mark.parametrize("missing", LAUNCH)
def test_half_an_environment_is_no_launch(second, monkeypatch, missing):
    monkeypatch.delenv(missing)
    assert launched() == 1
    assert is_first_of_launch()


def test_outside_of_work_that_is_shared_a_process_of_a_launch_is_by_itself(second):
    """As in a training, or where a script measures another model on each."""
    assert launched() == 2
    assert not is_first_of_launch()
    assert is_first()
    assert list(shared([1, 2], lambda units: (unit for unit in units))) == [(1, 1), (2, 2)]


def test_a_wrong_flag_is_told_by_one(second, capsys):
    with pytest.raises(SystemExit) as ending:
        Parser(prog="paint").parse_args(["--ink"])
    assert ending.value.code == 2
    assert capsys.readouterr().err == ""
