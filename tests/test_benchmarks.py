import json
import math

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

pytestmark = pytest.mark.slow

GV_FLAGS = "--samples 1 4 --draws 40 --steps 30 --batch_size 32".split()


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def throughput(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    import train_throughput

    return train_throughput


@pytest.fixture(scope="module")
def variance(repository):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "benchmarks"))
        import gradient_variance
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return gradient_variance


@pytest.fixture(scope="module")
def measured(variance, tmp_path_factory):
    """The folder and the JSON of a small run on the digits."""
    folder = tmp_path_factory.mktemp("variance")
    variance.main([*GV_FLAGS, "--out", str(folder / "v.json"), "--plot", str(folder / "v.png")])
    return folder, json.loads((folder / "v.json").read_text())


def variances(stage, name):
    return {r["num_latent_samples"]: r["variance"] for r in stage["rows"] if r["estimator"] == name}


class TestMoments:
    def test_are_those_of_all_vectors_at_once(self, variance):
        vectors = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 8) + 100
        moments = variance.Moments()
        for vector in vectors:
            moments.add(vector)
        vectors = vectors.double()
        torch.testing.assert_close(moments.mean, vectors.mean(0))
        torch.testing.assert_close(moments.variance_of_mean, vectors.var(0) / 50)
        assert moments.total_variance()[0] == pytest.approx(vectors.var(0).sum().item())
        assert moments.signal() == pytest.approx((vectors.mean(0).square() - vectors.var(0) / 50).sum().item())

    def test_standard_error_is_the_jackknife_s(self, variance):
        generator = torch.Generator().manual_seed(1)
        vectors = torch.randn(2, 300, 5, generator=generator, dtype=torch.float64).prod(0) + 3
        moments = variance.Moments()
        for vector in vectors:
            moments.add(vector)
        left_out = torch.stack([torch.cat([vectors[:i], vectors[i + 1 :]]).var(0).sum() for i in range(300)])
        jackknife = math.sqrt(299 / 300 * (left_out - left_out.mean()).square().sum())
        assert moments.total_variance()[1] == pytest.approx(jackknife, rel=0.05)


class TestGradientVariance:
    def test_measures_every_estimator_before_and_after_training(self, variance, measured):
        _, result = measured
        assert list(result["stages"]) == ["at initialisation", "after 30 steps"]
        for stage in result["stages"].values():
            cells = [(r["estimator"], r["num_latent_samples"]) for r in stage["rows"]]
            assert cells == [(name, n) for name in variance.ESTIMATORS for n in (1, 4)]
            assert all(0 < r["standard_error"] < r["variance"] for r in stage["rows"])
            assert all(r["seconds_per_gradient"] > 0 for r in stage["rows"])

    def test_score_function_is_noisiest_and_the_baseline_helps(self, measured):
        for stage in measured[1]["stages"].values():
            for n in (1, 4):
                plain, baseline, a = (
                    variances(stage, k)[n] for k in ("score function", "score function, baseline", "SGVB A")
                )
                assert plain > 10 * baseline
                assert baseline > a

    def test_analytic_kl_helps_at_initialisation(self, measured):
        stage = measured[1]["stages"]["at initialisation"]
        assert variances(stage, "SGVB B")[1] < variances(stage, "SGVB A")[1] / 2

    @pytest.mark.parametrize("name", ["score function", "SGVB A", "SGVB B"])
    def test_variance_falls_as_one_over_samples(self, measured, name):
        for stage in measured[1]["stages"].values():
            of = variances(stage, name)
            assert of[1] / of[4] == pytest.approx(4, rel=0.35)

    def test_mean_gradients_agree(self, measured):
        for stage in measured[1]["stages"].values():
            *compared, reference = stage["rows"]
            assert "rms_z" not in reference
            assert all(0.5 < r["rms_z"] < 1.6 and r["max_abs_z"] < 8 for r in compared)

    def test_a_biased_estimator_is_noticed(self, variance):
        generator = torch.Generator().manual_seed(0)
        reference, biased = variance.Moments(), variance.Moments()
        for _ in range(100):
            reference.add(torch.randn(30, generator=generator))
            biased.add(torch.randn(30, generator=generator) + 0.5)
        assert variance.row(biased, reference, 0.0)["rms_z"] > 2

    def test_writes_a_picture_and_no_path(self, measured):
        folder, result = measured
        assert (folder / "v.png").read_bytes().startswith(b"\x89PNG")
        assert str(folder) not in json.dumps(result)
        assert result["settings"]["dataset_name"] == "digits"

    def test_takes_a_trained_pipeline(self, variance, tmp_path, capsys):
        from hfgen.models import build_vae, load_vae_config
        from hfgen.pipelines import VAEPipeline

        config = load_vae_config("mnist-2d") | {"hidden_sizes": [8]}
        VAEPipeline(build_vae(config, 8, 1)).save_pretrained(tmp_path / "vae")
        words = ["--pipeline", str(tmp_path / "vae"), "--samples", "1", "--draws", "2", "--batch_size", "4"]
        variance.main([*words, "--out", str(tmp_path / "v.json")])
        result = json.loads((tmp_path / "v.json").read_text())
        assert list(result["stages"]) == ["trained"]
        assert result["settings"]["pipeline"] == "vae"
        assert "SGVB B" in capsys.readouterr().out


class TestTrainThroughput:
    def test_a_preset_s_name_tells_the_kind(self, throughput):
        def chosen(*words):
            args = throughput.parse(list(words))
            return args.kind, args.model, args.batch_size

        assert chosen() == ("ddpm", "digits", 64)
        assert chosen("--dataset_name", "mnist") == ("ddpm", "mnist", 64)
        assert chosen("--model", "mnist-50d") == ("vae", "mnist-50d", 128)
        assert chosen("--kind", "vae") == ("vae", "digits", 128)
        assert chosen("--kind", "vae", "--dataset_name", "mnist") == ("vae", "mnist-50d", 128)

    @pytest.mark.parametrize(
        ("words", "steps"), [("--kind vae --epoch --model mnist-50d", 11), ("--batch_size 4 --steps 2", 2)]
    )
    def test_times_three_loops(self, throughput, monkeypatch, tmp_path, capsys, words, steps):
        monkeypatch.setattr(throughput, "peak_memory_in_own_process", lambda name: 1.0)
        out = tmp_path / "t.json"
        throughput.main([*words.split(), "--rounds", "2", "--out", str(out)])
        result = json.loads(out.read_text())
        assert list(result["loops"]) == list(throughput.LOOPS)
        assert all(len(row["rounds"]) == 2 and min(row["rounds"]) > 0 for row in result["loops"].values())
        assert result["loops"]["bare step"]["ratio_to_bare_step"] == 1
        assert result["settings"]["steps"] == steps
        assert str(tmp_path) not in out.read_text()
        assert capsys.readouterr().out.count("\n") == 4

    def test_every_loop_trains_the_model(self, throughput):
        args = throughput.parse("--kind vae --batch_size 500".split())
        for name in throughput.LOOPS:
            loop, epoch = throughput.make_loop(name, args)
            model = loop.trainer.module if name == "hfgen" else loop.model
            before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
            loop(epoch + 1)  # on into the next epoch
            assert epoch == 3
            assert not torch.equal(before, torch.nn.utils.parameters_to_vector(model.parameters()))

    def test_memory_of_one_loop(self, throughput, capsys):
        throughput.main(["--kind", "vae", "--memory_of", "bare step"])
        assert float(capsys.readouterr().out.splitlines()[-1]) > 0
