"""The process that a scheduler of diffusers runs, and those that are refused."""

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler

from hfgen.core.errors import HfgenError
from hfgen.schedulers import reverse_process


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
        "PNDMScheduler",
    ],
)
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_samplers_of_the_same_betas_run_the_same_process(name, beta_schedule):
    config = {"num_train_timesteps": 100, "beta_schedule": beta_schedule, "prediction_type": "v_prediction"}
    found = reverse_process(getattr(diffusers, name)(**config))
    expected = reverse_process(DDPMScheduler(**config))
    assert torch.equal(found.forward.beta, expected.forward.beta)
    assert (found.parameterization.prediction_type, found.variance_type) == ("v_prediction", "fixed_small")
    assert reverse_process(DDPMScheduler(**config, variance_type="fixed_large")).variance_type == "fixed_large"


def test_a_variance_can_be_named_for_a_sampler_without_one():
    process = reverse_process(diffusers.DDIMScheduler(), "fixed_large")
    assert process.variance_type == "fixed_large"
    assert not process.learned_variance
    assert reverse_process(DDPMScheduler(variance_type="learned")).learned_variance


def refused(scheduler, message):
    with pytest.raises(HfgenError, match=f"^{type(scheduler).__name__} .*{message}") as caught:
        reverse_process(scheduler)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FlowMatchEulerDiscreteScheduler", "a flow between noise and data"),
        ("FlowMatchHeunDiscreteScheduler", "a flow between noise and data"),
        ("EDMEulerScheduler", "the noise levels of Karras et al"),
        ("EDMDPMSolverMultistepScheduler", "the noise levels of Karras et al"),
        ("ScoreSdeVeScheduler", "a variance-exploding SDE"),
        ("CMStochasticIterativeScheduler", "a consistency model"),
        ("DDPMWuerstchenScheduler", "a process in continuous time"),
        ("IPNDMScheduler", "no betas"),
        ("CogVideoXDDIMScheduler", "alphas_cumprod are not those of its betas"),
    ],
)
def test_processes_that_are_no_ddpm_are_refused_by_name(name, message):
    refused(getattr(diffusers, name)(), f"does not run a DDPM's process.*{message}.*DDPMScheduler")


def test_deprecated_processes_are_refused_by_name():
    from diffusers.schedulers.deprecated import KarrasVeScheduler, ScoreSdeVpScheduler

    refused(KarrasVeScheduler(), "does not run a DDPM's process .*a variance-exploding process")
    refused(ScoreSdeVpScheduler(), "does not run a DDPM's process .*an SDE in continuous time")


def test_a_solver_set_to_flows_is_refused():
    solver = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    refused(solver, r"does not run a DDPM's process \(a flow between noise and data\)")


def test_what_the_process_does_not_know_is_refused():
    refused(DDPMScheduler(rescale_betas_zero_snr=True), "has beta = 1 at the last step.* needs prediction_type")
    refused(DDPMScheduler(prediction_type="score"), "has prediction_type='score': known are epsilon, sample, v_pred")
    refused(DDPMScheduler(variance_type="large"), "has variance_type='large': known are fixed_small, ")
