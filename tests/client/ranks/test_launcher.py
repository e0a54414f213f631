"""What launchers say in the environment, and what is made of it."""

from __future__ import annotations

import os

import pytest

from infobatch_client.ranks.launcher import Job, node_name, started_ranks, this_job
from infobatch_stream.errors import ConfigError


def test_without_a_launcher_there_is_no_job() -> None:
    assert this_job({}) == Job("none", 0)
    assert this_job({"SLURM_JOB_ID": "7"}) == Job("none", 0)  # a shell inside an allocation


@pytest.mark.parametrize("run_id", ["none", "copied-from-another-job"])
def test_torchruns_attempts_are_those_of_one_agent(run_id: str) -> None:
    first = this_job({"TORCHELASTIC_RUN_ID": run_id, "TORCHELASTIC_RESTART_COUNT": "0"})
    again = this_job({"TORCHELASTIC_RUN_ID": run_id, "TORCHELASTIC_RESTART_COUNT": "1"})
    assert first.name == again.name
    assert run_id in first.name
    assert str(os.getppid()) in first.name
    assert (first.attempt, again.attempt) == (0, 1)


def test_a_requeued_slurm_job_is_its_next_attempt() -> None:
    first = this_job({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0"})
    again = this_job({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "1"})
    assert first.name == again.name == "slurm::7"
    assert first.attempt < again.attempt


def test_torchrun_inside_a_requeued_slurm_job_goes_on_counting() -> None:
    inside = {"TORCHELASTIC_RUN_ID": "7", "SLURM_JOB_ID": "7"}
    last = this_job({**inside, "TORCHELASTIC_RESTART_COUNT": "3"})
    requeued = this_job({**inside, "TORCHELASTIC_RESTART_COUNT": "0", "SLURM_RESTART_COUNT": "1"})
    assert requeued.attempt > last.attempt


def test_a_count_that_is_no_number() -> None:
    with pytest.raises(ConfigError, match="SLURM_RESTART_COUNT='soon' is no whole number"):
        this_job({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "soon"})


def test_ranks_that_a_launcher_has_started() -> None:
    assert started_ranks({"RANK": "1", "WORLD_SIZE": "4"}) == 4
    assert started_ranks({"WORLD_SIZE": "4"}) == 1
    assert started_ranks({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}) == 2
    assert started_ranks({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == 1  # the shell of a batch job


def test_a_node_is_a_machine_or_what_a_launcher_counts_as_one() -> None:
    assert node_name({}) == node_name({})
    assert node_name({"GROUP_RANK": "0"}) != node_name({"GROUP_RANK": "1"})
    assert node_name({"SLURM_NODEID": "0"}) != node_name({"SLURM_NODEID": "1"})
