from threading import Event, Thread

import torch

from flashdiffusion.metrics.flops import FlopCounter


def test_counters_in_threads_leave_compiling_as_it_was():
    """torch's switch to eager is one for all threads, and counters end in any order."""
    first, second = FlopCounter(), FlopCounter()
    entered, go = Event(), Event()

    def other():
        with second:
            entered.set()
            go.wait(10)
            torch.ones(4, 4) @ torch.ones(4, 4)

    thread = Thread(target=other)
    with first:
        thread.start()
        entered.wait(10)
        torch.ones(2, 2) @ torch.ones(2, 2)
    go.set()
    thread.join()
    assert (first.flop, second.flop) == (2 * 2**3, 2 * 4**3)
    assert torch._dynamo.eval_frame._stance.stance == "default"
