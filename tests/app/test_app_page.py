"""The page as Gradio serves it: it fetches nothing, lets few wait, and Gradio is optional."""

import asyncio
import sys

import pytest

from flashdiffusion.app.clicks import Clicks
from flashdiffusion.app.damages import PHOTOGRAPHS
from flashdiffusion.app.limits import Limits
from flashdiffusion.app.serving import Place


@pytest.fixture(scope="module")
def page():
    """The module of the page; Gradio makes locks of event loops, and leaves these open."""
    made, new = [], asyncio.new_event_loop
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", lambda: (made.append(new()), made[-1])[1])
        from flashdiffusion.app import page

        yield page
    asyncio.set_event_loop(None)
    for loop in made:
        loop.close()


def test_nothing_is_fetched_and_few_wait(page, tmp_path):
    blocks = page.build(Clicks(lambda click, tell: None, Limits(waiting=3), tmp_path))
    assert not blocks.analytics_enabled
    assert blocks._queue.max_size == 4  # and three of them get a ticket
    restore = next(one for one in blocks.fns.values() if one.api_name == "restore")
    assert restore.trigger_mode == "multiple"  # a click may follow while one that was stopped ends
    theme = page.theme()
    assert theme._stylesheets == []
    assert "http" not in page.style() + "".join(theme._font_css)


def test_another_model_brings_its_own_damages_and_methods(page, tmp_path):
    blocks = page.build(Clicks(lambda click, tell: None, Limits(), tmp_path))
    changed = next(one.fn for one in blocks.fns.values() if getattr(one.fn, "__name__", "") == "changed")
    updates = [*changed(PHOTOGRAPHS, "damaged", "lost").values()]
    choices = [[name for _, name in one["choices"]] for one in updates if "choices" in one]
    assert "jpeg" in choices[0]
    assert "lost" not in choices[0]
    assert "denoise" in choices[1]


def test_without_gradio_one_line_says_what_to_install(flash, monkeypatch):
    for name in [one for one in sys.modules if one == "flashdiffusion.app.page"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    ended = flash("app", "--port", "0")
    assert ended.code == 2
    assert 'the page needs Gradio: pip install "flashdiffusion[app]"' in ended.err


def test_weights_that_are_none_are_refused_before_the_page_is_served(page, flash):
    ended = flash("app", "--port", "0", "--lpips", "absent.safetensors")
    assert ended.code == 2
    assert "no LPIPS weights at absent.safetensors; give a file of them" in ended.err
    assert ended.out == ""


def test_a_place_that_is_taken_is_refused(flash):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = flash("app", "--port", port)
    assert ended.code == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in ended.err
    assert flash("app", "--port", 70000).code == 2
    assert Place(port=0).taken() > 0
