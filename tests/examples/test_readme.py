"""The programs in the README and in the package's docstring are whole, and the same."""

import re
from pathlib import Path

import pytest

import cpg
from tests.cpg.processes import write_config

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_docstrings_program_is_the_readmes():
    readme = re.search(r"```python\n(import cpg.*?)```", README, re.DOTALL)[1]
    docstring = re.search(r"::\n\n(    import cpg.*?trio\.run\(main\)\n)", cpg.__doc__, re.DOTALL)[1]

    def essence(text):
        return [re.sub(r"\s*#.*", "", line).strip() for line in text.splitlines() if line.strip()]

    assert essence(readme) == essence(docstring)
    assert len(essence(readme)) <= 15


def test_the_readmes_program_runs(tmp_path, monkeypatch, capsys):
    program = re.search(r"```python\n(import cpg.*?)```", README, re.DOTALL)[1]
    write_config(tmp_path, 1)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out == "1: hello\n"


@pytest.mark.parametrize("name", cpg.__all__)
def test_the_street_door_has_a_name_and_a_docstring(name):
    thing = getattr(cpg, name)
    assert thing.__doc__
