"""Two real workers together, under `horovodrun -np 2`."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def found(run_process, root, tmp_path_factory):
    """The results of checks.py on both workers, by rank."""
    path = tmp_path_factory.mktemp("workers") / "results.json"
    ran = run_process(root / "tests" / "workers" / "checks.py", path, workers=2)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(path.read_text())


def both(found, name):
    return [worker[name] for worker in found]


def test_horovod_ran_two_workers(found):
    assert both(found, "place") == [[0, 2], [1, 2]]


def test_different_data_leave_identical_weights(found):
    first, second = both(found, "different_data")
    assert first == second


def test_without_the_distributed_optimizer_the_weights_differ(found):
    first, second = both(found, "different_data_without")
    assert first != second


@pytest.mark.parametrize("name", ["half_a_batch_each", "half_a_batch_each_in_groups"])
def test_half_a_batch_each_is_one_whole_batch(found, name):
    (apart, first), (_, second) = both(found, name)
    assert apart < 1e-5
    assert first == second


def test_steps_by_xla_are_those_without_it(found):
    (apart, first), (also_apart, second) = both(found, "by_xla")
    assert max(apart, also_apart) < 1e-5
    assert first == second


def test_groups_of_variables_communicate_together(found):
    assert both(found, "collectives_of_groups") == [[2]] * 2


def test_what_rank_0_does_alone_is_known_to_both(found):
    first, second = both(found, "by_first")
    assert first == second
    answer, troubles, late = first
    assert answer == {"rank": 0, "thread": False}
    assert troubles == [
        ["SharedUserError", "no such folder"],
        ["RunError", "died"],
        ["RunError", "'a file': No space"],
    ]
    assert late == ["RunError", "late"]


@pytest.mark.parametrize("name", ["infinity", "infinity_by_xla"])
def test_an_infinity_on_one_worker_makes_both_skip_the_step(found, name):
    first, second = both(found, name)
    assert first == second
    assert [s["moved"] for s in first["steps"]] == [False, True, True]
    # Keras starts at 2 ** 15 and halves at each skip.
    assert [s["scale"] for s in first["steps"]] == [2.0**14] * 3
    assert [s["iterations"] for s in first["steps"]] == [0, 1, 2]


def test_an_infinity_while_accumulating_makes_both_skip_the_micro_batch(found):
    first, second = both(found, "infinity_while_accumulating")
    assert first == second
    assert [s["moved"] for s in first["steps"]] == [False, False, True]
    # Keras counts applied steps; the second micro-batch is the first that counts.
    assert [s["iterations"] for s in first["steps"]] == [0, 0, 1]


def test_clipping_sees_the_averaged_gradient(found):
    # Mean of 3 and 0 is 1.5, clipped to 1; clipped before, it would be 0.5.
    assert both(found, "clipping") == [[[-1.0]], [[-1.0]]]


@pytest.mark.parametrize("name", ["clipping_while_accumulating", "clipping_in_a_loss_scale"])
def test_clipping_sees_the_average_of_what_was_accumulated(found, name):
    # Means over the micro-batches: (4 + 2) / 2 = 3 and 0; over the workers 1.5, clipped to
    # 1. Clipped before the workers' mean it would be (1 + 0) / 2 = 0.5.
    assert both(found, name) == [[[0.0], [-1.0]]] * 2


def test_compression_sends_float16(found):
    assert both(found, "compression_none") == [[np.float32([-1e-9, -1 / 3]).tolist()]] * 2
    halves = [[0.0, -float(np.float16(1 / 3))]]
    np.testing.assert_array_equal(both(found, "compression_fp16"), [halves] * 2)
    np.testing.assert_array_equal(both(found, "compression_class"), [halves] * 2)


@pytest.mark.parametrize("name", ["sparse", "sparse_as_dense"])
def test_sparse_gradients_are_averaged_row_by_row(found, name):
    # Rows 0 and 1 on worker 0, rows 0 and 2 on worker 1; the dense one is 0 and [2, 4].
    bias = [-1.0, -2.0]
    embedding = [[-1.0, -2.0], [-1.5, -2.0], [-1.5, -2.0], [0.0, 0.0]]
    assert both(found, name) == [[bias, embedding]] * 2


def test_accumulation_averages_the_mean_over_the_micro_batches(found):
    # (1 + 3) / 2 on worker 0, (5 + 7) / 2 on worker 1, hence 4.
    assert both(found, "accumulation") == [[[0.0], [-4.0]]] * 2


def test_accumulation_communicates_once_for_each_applied_step(found):
    everywhere, inside = found[0]["collectives"]
    assert everywhere == 0
    assert inside == 1


def test_a_process_set_averages_over_its_members_only(found):
    assert both(found, "process_set") == [[[-1.0]], [[-2.0]]]


def test_broadcast_gives_weights_statistics_and_optimizer_state(found):
    first, second = both(found, "broadcast")
    assert first == second
    assert set(second["statistics"]) == {1.0}
    assert second["state"] == [1.0]


def test_a_kernel_that_rank_0_whitened_is_the_same_on_both(found):
    (before, after), (other, same) = both(found, "whitening")
    assert before != other
    assert after == same == before


def test_moving_statistics_are_averaged(found):
    for worker in both(found, "statistics"):
        assert np.unique(worker).tolist() == [2.0]


def test_metrics_are_averaged_by_name(found):
    expected = [{"loss": 1.5, "accuracy": 0.25}, {"b": 0.5, "a": 2.0}]
    assert both(found, "metrics") == [expected] * 2


def test_workers_whose_weights_differ_are_named_on_both(found):
    for message in both(found, "differing_weights"):
        assert message.startswith("step 0: the weights of worker 1 differ from worker 0's")


def test_workers_that_differ_by_rounding_get_the_weights_of_the_first(found):
    first, second = both(found, "weights_that_differ_by_rounding")
    assert first[1] == second[1] == 0.5
    (line,) = first[0]
    assert line.startswith("step 0: the workers' weights differed by rounding, by at most")
    assert second[0] == []


def test_an_error_of_one_worker_is_raised_on_both(found):
    assert both(found, "trouble_of_one") == [["worker 1: the disk is full", True]] * 2


OTHER_DATA = "the data of worker 1 is not worker 0's"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("another_recipe", "the recipe of worker 1 is not worker 0's (key 'seed': was 0, is 1)"),
        ("other_data", f"{OTHER_DATA} (the data in '32/train', images: was 50, is 49)"),
        ("another_policy", "the policy of worker 1 is not worker 0's: float32 and bfloat16"),
        ("other_steps", "the number of steps of worker 1 is not worker 0's: 10 and 11"),
    ],
)
def test_workers_that_would_do_different_things_are_refused_on_both(found, what, message):
    assert both(found, what) == [[f"{message}; give all hosts the same files", True]] * 2


def test_workers_that_agree_continue(found):
    assert both(found, "agreement") == ["nothing"] * 2


def test_gather_returns_every_workers_value_by_rank(found):
    expected = [{"rank": 0, "text": ""}, {"rank": 1, "text": "é"}]
    assert both(found, "gather") == [expected] * 2


def test_all_workers_give_signs_while_one_waits_for_its_disk(found):
    assert both(found, "slow_checkpoint") == [True, True]
    message = "step 0: the loss of worker 1 is not finite; its batch holds slow_names.jpg, ..."
    assert both(found, "slow_names") == [[True, message]] * 2


def test_a_thread_gathers_at_the_same_time_as_the_main_thread(found):
    assert both(found, "two_gathers") == [[[0, 1], [[0.0, 0.5], [1.0, 1.5]]]] * 2


def test_workers_that_join_look_for_gpus_and_leave_copies_to_cuda(found):
    assert both(found, "joined") == [[["for GPUs"], "0"]] * 2


def test_the_check_of_the_all_reduce_accepts_right_means(found):
    assert both(found, "all_reduce") == ["nothing"] * 2


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        # The first number that is wrong: of 1,281 the 257th, worker 0's 5 and worker 1's 10.
        ("all_reduce_wrong", "float16: 8.5 for a mean of 7.5"),
        # Worker 0's 1 and worker 1's 2.
        ("all_reduce_nan", "float16: nan for a mean of 1.5"),
    ],
)
def test_a_wrong_mean_on_one_worker_ends_both(found, name, wrong):
    first, second = both(found, name)
    assert first == second
    error, message = first
    assert error == "RunError"
    text = f"the all-reduce gives wrong numbers on worker 1 (worker 1, {wrong}); look with"
    assert message.startswith(text)


def test_an_all_reduce_that_fails_says_why(found):
    for error, message in both(found, "all_reduce_fails"):
        assert error == "UserError"
        assert message.startswith("the first all-reduce failed: ncclAllReduce failed; look with")


def test_gpus_are_checked_where_all_workers_have_one(found):
    mixed = "worker 0: no GPU was found, but other workers have one; run nvidia-smi on that host"
    for nowhere, some, everywhere in both(found, "gpus"):
        assert nowhere == ["nothing"]
        assert some[0][0] == "SharedUserError"
        assert some[0][1].startswith(mixed)
        assert everywhere == ["nothing", "checked"]
