import threading

import pytest

from flashdiffusion.data import in_chunks, mapped, prefetched


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


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order_whoever_makes_them(threads):
    assert list(mapped(lambda n: n * n, range(200), threads)) == [n * n for n in range(200)]


def test_results_are_made_while_items_are_and_do_not_pile_up():
    going = threading.Event()
    seen = []

    def items():
        for number in range(100):
            seen.append(number)
            yield number
            if number == 0:
                assert going.wait(10), "the first is worked on while the second is made"

    results = mapped(lambda n: going.set() or n, items(), 1)
    assert next(results) == 0
    assert len(seen) <= 18
    results.close()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_interrupt_comes_after_the_results_before_it(threads):
    def items():
        yield from range(3)
        raise KeyboardInterrupt

    results = mapped(str, items(), threads)
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_chunks_hold_the_same_items():
    assert list(in_chunks(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_chunks([], 3)) == []
