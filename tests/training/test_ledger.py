"""What waits for a disk comes to it whole, in its order, once."""

from training.ledger import Ledger


def test_what_failed_is_written_first_and_the_user_is_told_once():
    full, written, told = True, [], []

    def entry(text):
        def write():
            if full:
                raise OSError(28, "No space left on device", "run/train.csv")
            written.append(text)

        return write

    ledger = Ledger(told.append)
    ledger.enter(entry("a"))
    ledger.enter(entry("b"))
    assert (len(ledger), written) == (2, [])
    assert told == [
        "the log could not be written (No space left on device, run/train.csv); "
        "training goes on, trying again"
    ]
    full = False
    ledger.enter(entry("c"))
    assert (len(ledger), written) == (0, ["a", "b", "c"])
    assert ledger.settle() is None


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk():
    import pytest

    with pytest.raises(KeyError):
        Ledger(print).enter(lambda: {}["x"])
