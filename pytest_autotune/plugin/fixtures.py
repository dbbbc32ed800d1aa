"""The public fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_autotune.bench.benchmark import GpuBenchmark
    from pytest_autotune.gpu.leases import Lease
    from pytest_autotune.load.loadtest import LoadTest
    from pytest_autotune.plugin.run import TrialRunner
    from pytest_autotune.serving.server import InferenceServer
    from pytest_autotune.study.trial import Trial


@pytest.fixture(scope="module")
def trial(request: pytest.FixtureRequest) -> Trial:
    """The configuration under test: ``trial.params`` in, ``trial.report(metrics)`` out.

    One value per trial, shared by all tests of the study and by every fixture that uses it.
    """
    slot = getattr(request, "param", None)
    if slot is None:
        pytest.fail(
            "the 'trial' fixture needs a study: mark the module, class or function with "
            "pytest.mark.autotune(...)",
            pytrace=False,
        )
    return _runner(request).trial_for(slot)


@pytest.fixture(scope="module")
def gpu(request: pytest.FixtureRequest, trial: Trial) -> Lease:
    """The GPUs of this trial, nobody else's until it ends: ``.devices``, ``.count``, ``.visible``.

    As many as its parallel layout needs, or the marker's ``gpus`` says. They are the only ones
    in ``CUDA_VISIBLE_DEVICES``, here and in whatever the test starts.
    """
    return _runner(request).running(trial).grant.lease


@pytest.fixture(scope="module")
def gpu_benchmark(request: pytest.FixtureRequest, trial: Trial) -> GpuBenchmark:
    """Time a callable, on the trial's GPU or on the CPU: ``gpu_benchmark(function, *arguments)``.

    The result goes to ``trial.report``. Keyword arguments are those of
    ``pytest_autotune.measure``; a candidate that is certainly slower than the incumbent is
    pruned, unless ``race=False``.
    """
    runner = _runner(request)
    return runner.resources.benchmark(runner.running(trial))


@pytest.fixture(scope="module")
def inference_server(request: pytest.FixtureRequest, trial: Trial) -> Iterator[InferenceServer]:
    """A running inference server with the trial's parameters, as the spec's ``server`` says.

    One per trial, shared by its tests: ``.base_url``, ``.api_url``, ``.logs()``, ``.log_file``,
    ``.gpus``, ``.command``, ``.startup_seconds``. Ended and removed after the trial's last test.
    """
    runner = _runner(request)
    server = runner.resources.start_server(runner.running(trial))
    yield server
    runner.resources.stop_server(server)


@pytest.fixture(scope="module")
def load_test(request: pytest.FixtureRequest, trial: Trial) -> Iterator[LoadTest]:
    """Put a server under the load of the spec's ``benchmark``: ``load_test(inference_server)``.

    The result goes to ``trial.report``; keyword arguments replace keys of the block for one
    call. An address (``load_test("http://127.0.0.1:8000")``) will do for a server. A candidate that
    can no longer become better than the incumbent is pruned, unless ``race=False``.
    """
    runner = _runner(request)
    test = runner.resources.load_test(runner.running(trial))
    yield test
    test.close()


def _runner(request: pytest.FixtureRequest) -> TrialRunner:
    runner: TrialRunner = request.config.pluginmanager.getplugin("autotune-runner")
    return runner
