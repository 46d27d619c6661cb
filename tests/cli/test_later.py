"""What no command uses is not loaded for it."""

import sys
from importlib import import_module

from flashdiffusion.cli.later import postpone


def test_a_module_is_loaded_when_it_is_used(tmp_path, monkeypatch):
    (tmp_path / "postponed").mkdir()
    (tmp_path / "postponed" / "__init__.py").touch()
    (tmp_path / "postponed" / "part.py").write_text("value = 3\n")
    (tmp_path / "postponed" / "other.py").write_text("from postponed.part import value\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("postponed", "postponed.part", "postponed.other")
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    postpone("postponed.part", "of_no_such_library.part")
    assert "of_no_such_library.part" not in sys.modules
    stands = import_module("postponed.part")
    assert not hasattr(stands, "__file__") and "value" not in vars(stands)
    assert import_module("postponed.other").value == 3
    assert sys.modules["postponed.part"] is not stands and stands.value == 3
    postpone("postponed.part")
    assert "value" in vars(sys.modules["postponed.part"]), "what is loaded stays"
    for name in names:
        del sys.modules[name]
