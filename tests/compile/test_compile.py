import io
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_artifact import OPTIONS, PREPROCESSING
from tiny_onnx import CLASSES, SIDE, write_float, write_int8

from pipeline.artifacts import OnnxModel, Place, Precision
from pipeline.compile.artifact_folder import choose_golden, open_artifact
from pipeline.compile.compile import compile_candidates
from pipeline.compile.result import choose, read_compilation
from pipeline.compile.settings import CompileSettings
from pipeline.data.readers import Dataset, ImageSet
from pipeline.data.sampling import at_most, logits_of_each, spread
from pipeline.errors import CompileError, TargetError
from pipeline.progress import Silent
from pipeline.workplace import Data, Workplace
from pipeline.workspace.hashing import sha256_of_file, sha256_of_folder
from pipeline.workspace.store import TIMINGS
from targets.device.model.golden import check, read_golden
from targets.device.model.manifest import read_manifest
from targets.device.model.onnxruntime_session import OnnxRuntimeSession
from targets.host import check_host, host_platform, resolve_place
from targets.runtimes import timing
from targets.target import Target, find_target

COUNT = 90
NAMES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.02)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.001)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, OnnxModel]:
    folder = tmp_path_factory.mktemp("export")
    return {
        Precision.FP32: write_float(folder / "float.onnx"),
        Precision.INT8: write_int8(folder / "onnxruntime.onnx"),
    }


@pytest.fixture(scope="session")
def dataset(models: Mapping[Precision, OnnxModel]) -> Dataset:
    """Random images that the float network has right, all but two of them."""
    random = np.random.default_rng(5)
    encoded = [png(random.integers(0, 256, (SIDE + 2, SIDE, 3)).astype(np.uint8)) for _ in range(COUNT)]
    unlabelled = images(encoded, np.zeros(COUNT, np.int64))
    session = OnnxRuntimeSession(models[Precision.FP32].path, OPTIONS)
    (logits,) = logits_of_each([session], unlabelled, PREPROCESSING, Silent())
    labels = logits.argmax(1)
    labels[[7, 70]] = (labels[[7, 70]] + 1) % CLASSES
    selection = images(encoded, labels)
    empty = selection.subset([])
    return Dataset(
        name="random",
        classes=NAMES,
        training=empty,
        selection=selection,
        gate=empty,
        fingerprint="0",
        notes=(),
    )


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def images(encoded: list[bytes], labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> ImageSet:
    names = [f"{index}.png" for index in range(len(encoded))]
    return ImageSet(read=lambda index: encoded[index], digests=names, names=names, labels=labels)


def compile_into(
    folder: Path, models: Mapping[Precision, OnnxModel], dataset: Dataset, target: Target | None = None
) -> None:
    folder.mkdir()
    compile_candidates(
        models,
        models[Precision.FP32],
        Data(dataset=dataset, preprocessing=PREPROCESSING),
        CompileSettings(
            target=target or find_target("cpu"),
            name="tiny",
            version="1.2.3",
            weight_bits=7,
            threads=1,
            tensorrt="10.3.0.30",
        ),
        Workplace(folder=folder, progress=Silent()),
    )


@pytest.fixture
def compiled(tmp_path: Path, models: Mapping[Precision, OnnxModel], dataset: Dataset) -> Path:
    compile_into(tmp_path / "compile", models, dataset)
    return tmp_path / "compile"


def test_every_precision_becomes_a_complete_artifact(compiled: Path, models: Mapping[Precision, OnnxModel]) -> None:
    for precision, model in models.items():
        folder = compiled / precision
        assert {path.name for path in folder.iterdir()} == {"model.onnx", "manifest.json", "golden.npz"}
        manifest = read_manifest(folder)
        assert (manifest.name, manifest.version, manifest.target) == ("tiny", "1.2.3", "cpu")
        assert manifest.precision == precision
        assert manifest.weight_bits == (7 if precision is Precision.INT8 else None)
        assert manifest.model_sha256 == sha256_of_file(model.path)
        assert manifest.input_shape == (3, SIDE, SIDE)
        with open_artifact(folder) as artifact:
            result = check(artifact.session, folder, manifest)
        assert result.matched
        assert result.images == 64


def test_accuracy_is_counted_on_the_selection_split(compiled: Path, dataset: Dataset) -> None:
    compilation = read_compilation(compiled)
    assert compilation.selection_images == COUNT
    fp32, int8 = compilation.candidates
    assert fp32.selection_top1 == (COUNT - 2) / COUNT
    assert fp32.selection_drop_points == 0
    with open_artifact(compiled / "int8") as artifact:
        (logits,) = logits_of_each([artifact.session], dataset.selection, PREPROCESSING, Silent())
    assert int8.selection_top1 == np.mean(logits.argmax(1) == dataset.selection.labels)
    assert int8.selection_drop_points == pytest.approx(100 * (fp32.selection_top1 - int8.selection_top1))


def test_all_are_timed_and_audited(compiled: Path) -> None:
    compilation = read_compilation(compiled)
    fp32, int8 = compilation.candidates
    for latency in (compilation.float_latency, fp32.latency, int8.latency):
        assert latency is not None
        assert latency.cpu_ms > 0
    assert fp32.audit is not None
    assert (fp32.audit.int8_nodes, fp32.audit.float_nodes) == (0, 4)
    assert int8.audit is not None
    assert (int8.audit.int8_nodes, int8.audit.float_nodes) == (4, 0)
    assert choose(compilation, target=find_target("cpu"), max_drop=100).folder.parent == compiled


def test_only_timings_differ_between_two_runs(
    compiled: Path, tmp_path: Path, models: Mapping[Precision, OnnxModel], dataset: Dataset
) -> None:
    compile_into(tmp_path / "again", models, dataset)
    digests = [sha256_of_folder(folder, leave_out=(TIMINGS,)) for folder in (compiled, tmp_path / "again")]
    assert digests[0] == digests[1]
    assert str(tmp_path) not in (compiled / "compilation.json").read_text()
    assert set(json.loads((compiled / TIMINGS).read_text())) == {"fp32", "int8", "float baseline"}


def test_golden_images_have_a_clear_winner(compiled: Path) -> None:
    _, logits = read_golden(compiled / "int8")
    ordered = np.sort(logits, axis=1)
    assert (ordered[:, -1] - ordered[:, -2]).min() > 0.01 * np.ptp(logits)


def test_golden_images_are_spread_and_clear() -> None:
    logits = np.zeros((100, 3), np.float32)
    logits[:, 0] = 10
    logits[40:60, 1] = 9.9
    chosen = choose_golden(logits, 8)
    assert len(chosen) == 8
    assert chosen[0] == 0
    assert chosen[-1] == 99
    assert not set(chosen) & set(range(40, 60))


def test_too_few_clear_images_are_filled_with_the_clearest() -> None:
    logits = np.array([[10, 0], [5, 5], [5, 4.9], [0, 10], [5, 5.2]], np.float32)
    assert choose_golden(logits, 3) == [0, 3, 4]
    assert choose_golden(logits, 99) == [0, 1, 2, 3, 4]
    assert choose_golden(np.ones((4, 1), np.float32), 2) == [0, 3]


def test_a_plan_that_is_not_met_writes_nothing_that_could_ship(
    tmp_path: Path, models: Mapping[Precision, OnnxModel], dataset: Dataset
) -> None:
    broken = {**models, Precision.INT8: write_int8(tmp_path / "broken.onnx", unquantized=("mean",))}
    with pytest.raises(CompileError, match="fc: its input mean"):
        compile_into(tmp_path / "compile", broken, dataset)
    assert not (tmp_path / "compile" / "compilation.json").exists()


def test_images_of_another_size_are_refused(
    tmp_path: Path, models: Mapping[Precision, OnnxModel], dataset: Dataset
) -> None:
    with pytest.raises(CompileError, match=r"has the input \[3, 8, 8\].*its manifest says \[3, 4, 4\]"):
        compile_candidates(
            models,
            models[Precision.FP32],
            Data(dataset=dataset, preprocessing=replace(PREPROCESSING, crop=(4, 4))),
            CompileSettings(
                target=find_target("cpu"), name="tiny", version="1", weight_bits=7, threads=1, tensorrt=""
            ),
            Workplace(folder=tmp_path, progress=Silent()),
        )


def test_a_host_that_cannot_stand_for_the_target_is_refused() -> None:
    here, elsewhere = own_and_foreign()
    check_host(here)
    with pytest.raises(
        TargetError, match=rf"is {elsewhere.platform}, but this machine is .*provable_at: image, device\)"
    ):
        check_host(replace(elsewhere, provable_at=(Place.IMAGE, Place.DEVICE)))
    with pytest.raises(TargetError, match="needs amx_tile; this CPU has only"):
        check_host(replace(here, instruction_sets=("amx_tile",)))


def test_a_host_stands_in_for_a_target_that_is_proven_in_emulation() -> None:
    here, elsewhere = own_and_foreign()
    check_host(elsewhere)
    assert resolve_place(here) is Place.HOST
    assert resolve_place(elsewhere) is Place.EMULATED
    assert resolve_place(find_target("jetson")) is Place.SIMULATED
    assert host_platform() == here.platform


def test_what_was_compiled_on_another_platform_says_so(
    tmp_path: Path, models: Mapping[Precision, OnnxModel], dataset: Dataset
) -> None:
    here, elsewhere = own_and_foreign()
    compile_into(tmp_path / "compile", models, dataset, target=elsewhere)
    compilation = read_compilation(tmp_path / "compile")
    assert (compilation.place, compilation.measured_by) == (Place.EMULATED, here.platform)
    (int8,) = [found for found in compilation.candidates if found.precision is Precision.INT8]
    assert int8.audit is not None
    assert (int8.audit.int8_nodes, int8.audit.float_nodes) == (4, 0)
    artifact = choose(compilation, target=elsewhere, max_drop=100)
    assert artifact.precision is Precision.INT8
    assert f"not timed on {elsewhere.platform}, as this host is {here.platform}" in artifact.reason
    with open_artifact(artifact.folder) as opened:
        # The device gets the options it is proven with, without those that asked for its rules here.
        assert "session.qdqisint8allowed" not in opened.manifest.session_options


def own_and_foreign() -> tuple[Target, Target]:
    """The catalogue's CPU targets: of this machine's platform, and of the other one, proven in emulation."""
    both = [replace(find_target(name), provable_at=(Place.EMULATED,)) for name in ("cpu", "cpu-arm64")]
    here, elsewhere = both if platform.machine() in ("x86_64", "AMD64") else reversed(both)
    return here, elsewhere


def test_a_large_selection_is_thinned_evenly(dataset: Dataset) -> None:
    assert at_most(dataset.selection, COUNT) is dataset.selection
    thinned = at_most(dataset.selection, 10)
    assert len(thinned) == 10
    assert (thinned.names[0], thinned.names[-1]) == ("0.png", f"{COUNT - 1}.png")
    assert spread(5, 9) == [0, 1, 2, 3, 4]
