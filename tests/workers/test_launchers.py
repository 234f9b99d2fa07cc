"""Workers that were launched, but that Horovod does not bring together."""


def test_mpirun_without_mpi_in_horovod_is_refused(run_process, tmp_path):
    """Open MPI sets this for each process; without it, each would train a model alone."""
    ran = run_process(
        "recipe.py", "--recipe", "demo", "--run_dir", tmp_path / "run", OMPI_COMM_WORLD_SIZE="2"
    )
    assert ran.returncode == 2
    assert "2 workers were launched, but Horovod finds 1" in ran.stderr
    assert not (tmp_path / "run").exists()
