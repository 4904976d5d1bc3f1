"""The pretrained models in onnxruntime against PyTorch, with one thread: speed, size, and what int8 costs in dB.

    python benchmarks/onnx_speed.py [MIXTURES] [--seconds 30] [--count 50]

Speed is that of the masks alone, without reading, resampling and writing: the median of five runs on the example
audio, repeated to so many seconds. "int8" is onnxruntime's dynamic quantization of all matrix products and LSTMs.
Scores are the mean SI-SDR of the separator on the first mixtures of a folder that `unmingle mix` wrote, or on the
example; and of the denoiser on the noisy example.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from unmingle.audio import Samples, read_audio, resample
from unmingle.data.mixture_folders import read_item, read_mixture_folder
from unmingle.denoising import Enhancer, load_denoiser
from unmingle.export import export_model
from unmingle.metrics import si_sdr
from unmingle.models import DEFAULT_DENOISER, DEFAULT_MODEL, find_model
from unmingle.permutation import best_permutation, pairwise_si_sdr
from unmingle.separation import Separator, load

EXAMPLES = Path(__file__).parent.parent / "examples"


def size(path: Path) -> float:
    """Megabytes of a model's file, or of all files in its folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) / 1e6


def quantize(exported: Path, target: Path) -> None:
    """Copy an exported model, its matrix products and LSTMs in int8."""
    target.mkdir()
    (target / "model.json").write_bytes((exported / "model.json").read_bytes())
    for graph in exported.glob("*.onnx"):
        single = target / graph.name
        onnx.save(in_single_precision(onnx.load(graph)), single)
        quantize_dynamic(single, single, weight_type=QuantType.QInt8)


def in_single_precision(model: Any) -> Any:
    """A graph whose constants in half precision are in single again, so that the quantizer finds them."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in constants]:
        values = onnx.numpy_helper.to_array(constants[node.input[0]]).astype(np.float32)
        constants[node.input[0]].CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    return model


def median_factor(work: Callable[[], object], seconds: float) -> float:
    """Seconds of work for a second of audio, the median of five runs after a first one that warms up."""
    work()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) / seconds


def repeated(path: Path, rate: int, seconds: float) -> Samples:
    recording = read_audio(path)
    return np.resize(resample(recording.samples[0], recording.sample_rate, rate), round(seconds * rate))


def separation_factor(separator: Separator, seconds: float) -> float:
    mixture = repeated(EXAMPLES / "two_speakers/mix/reader_and_commands.flac", separator.sample_rate, seconds)

    def work() -> None:
        with torch.no_grad():
            separator.system.mask(torch.from_numpy(mixture)[None], separator.speakers)

    return median_factor(work, seconds)


def denoising_factor(enhancer: Enhancer, seconds: float, block: int, look_ahead: float) -> float:
    noisy = repeated(EXAMPLES / "in_noise/noisy/reader_in_wind.flac", enhancer.sample_rate, seconds)

    def work() -> None:
        stream = enhancer.stream(enhancer.sample_rate, look_ahead_seconds=look_ahead)
        for start in range(0, len(noisy), block):
            stream.push(noisy[start : start + block])
        stream.flush()

    return median_factor(work, seconds)


def separation_score(separator: Separator, mixtures: Path, count: int) -> float:
    scores = []
    for item in read_mixture_folder(mixtures)[:count]:
        mixture, sources, rate = read_item(item)
        estimates = separator.separate(mixture, rate, len(sources)).estimates
        pairwise = pairwise_si_sdr(torch.from_numpy(estimates)[None], torch.from_numpy(sources)[None])
        scores.append(float(best_permutation(pairwise)[0]))
    return statistics.mean(scores)


def denoising_score(enhancer: Enhancer) -> float:
    noisy = read_audio(EXAMPLES / "in_noise/noisy/reader_in_wind.flac")
    clean = read_audio(EXAMPLES / "in_noise/clean/reader_in_wind.flac")
    cleaned = enhancer.denoise(noisy.samples[0], noisy.sample_rate)
    return float(si_sdr(torch.from_numpy(cleaned), torch.from_numpy(clean.samples[0])))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mixtures", type=Path, nargs="?", default=EXAMPLES / "two_speakers")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--count", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # The quantizer advises what changes nothing here.
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread, torch "
        f"{torch.__version__}, onnxruntime {onnxruntime.__version__}, {arguments.seconds:g} s of audio\n"
    )
    print("| model | runs in | real-time factor | frame by frame | MB | SI-SDR (dB) |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        for model in (DEFAULT_MODEL, DEFAULT_DENOISER):
            exported, quantized = Path(name) / model, Path(name) / f"{model}-int8"
            export_model(model, exported)
            quantize(exported, quantized)
            ways = {"PyTorch": find_model(model), "onnxruntime": exported, "onnxruntime, int8": quantized}
            for way, path in ways.items():
                if model == DEFAULT_MODEL:
                    separator = load(path, "cpu")
                    factor, step = separation_factor(separator, arguments.seconds), ""
                    score = separation_score(separator, arguments.mixtures, arguments.count)
                else:
                    enhancer = load_denoiser(path)
                    factor = denoising_factor(enhancer, arguments.seconds, 10 * enhancer.sample_rate, 10.0)
                    step = f"{denoising_factor(enhancer, arguments.seconds, enhancer.system.hop, 0.0):.4f}"
                    score = denoising_score(enhancer)
                print(
                    f"| `{model}` | {way} | {factor:.4f} | {step} | {size(path):.1f} | {score:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
