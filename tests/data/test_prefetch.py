import threading

import pytest

from flashdiffusion.data import prefetched


def test_gives_the_same_items():
    assert list(prefetched(range(5))) == [0, 1, 2, 3, 4]
    assert list(prefetched([])) == []


def test_one_item_is_made_ahead_and_no_more():
    made = []
    second = threading.Event()

    def items():
        for number in range(10):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    taken = prefetched(items())
    assert next(taken) == 0
    assert second.wait(10), "the second is made while the first is used"
    assert made == [0, 1]
    taken.close()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("unreadable")

    taken = prefetched(items())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="unreadable"):
        next(taken)
