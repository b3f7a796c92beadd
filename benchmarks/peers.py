"""Time forward on the CPU against ONNX Runtime and OpenVINO, with the same weights and number of threads.

Both read the same ONNX file with a GRU node (linear_before_reset=1, that is reset="after"). Before anything is timed,
the outputs must agree. Each runs in its own process, one after another, because their threads spin for a while after a
call and would slow down the next one. Needs: pip install onnx onnxruntime openvino

    python benchmarks/peers.py [--threads 2] [--rounds 9]
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from headgate import GRU
from rounds import conclude, in_turn, machine, ratio, start

SHAPES = ((100, 1, 256, 256), (35, 32, 256, 256))  # T, B, I, H
LEAST = 1.0


def to_onnx(layer: GRU, path: Path) -> None:
    """Write the layer as an ONNX GRU node, whose gates have the order z, r, h."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    H = layer.hidden_size

    def reorder(value: torch.Tensor) -> np.ndarray:
        r, z, n = value.detach().split(H)
        return torch.cat([z, r, n]).numpy()

    arrays = {
        "W": reorder(layer.weight_ih_l0)[None],
        "R": reorder(layer.weight_hh_l0)[None],
        "B": np.concatenate([reorder(layer.bias_ih_l0), reorder(layer.bias_hh_l0)])[None],
    }
    node = helper.make_node("GRU", ["X", "W", "R", "B"], ["Y"], hidden_size=H, linear_before_reset=1)
    inputs = [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["T", "B", layer.input_size])]
    outputs = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["T", 1, "B", H])]
    graph = helper.make_graph(
        [node], "gru", inputs, outputs, [numpy_helper.from_array(v, name) for name, v in arrays.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


Reader = Callable[[], np.ndarray]


def onnx_runtime(path: Path, x: np.ndarray, threads: int) -> Reader:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"X": x})[0][:, 0]


def open_vino(path: Path, x: np.ndarray, threads: int) -> Reader:
    import openvino

    model = openvino.convert_model(path)
    model.reshape(list(x.shape))
    hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(model, "CPU", hints).create_infer_request()
    return lambda: request.infer({0: x})[0][:, 0]


def headgate(path: Path, x: np.ndarray, threads: int) -> Reader:
    torch.set_num_threads(threads)
    layer, inputs = torch.load(path.with_suffix(".pt"), weights_only=False), torch.from_numpy(x)

    def read() -> np.ndarray:
        with torch.inference_mode():
            return layer(inputs)[0].numpy()

    return read


READERS = {"ONNX Runtime": onnx_runtime, "OpenVINO": open_vino, "headgate": headgate}


def serve(name: str, path: Path, x: np.ndarray, threads: int, pipe: Connection) -> None:
    """Send the output through the pipe, then the seconds of one call per message received, until a false message."""
    read = READERS[name](path, x, threads)
    pipe.send(read())
    while pipe.recv():
        pipe.send(in_turn([read], 1)[0][0])


def main() -> None:
    options = start(__doc__)
    goals, processes = {}, multiprocessing.get_context("spawn")
    for T, B, I, H in SHAPES:  # noqa: E741 - the letters of the equations
        layer, x = GRU(I, H, backend="native").eval(), torch.randn(T, B, I).numpy()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gru.onnx"
            to_onnx(layer, path)
            torch.save(layer, path.with_suffix(".pt"))
            pipes, outputs = {}, {}
            for name in READERS:
                pipes[name], theirs = processes.Pipe()
                processes.Process(target=serve, args=(name, path, x, options.threads, theirs), daemon=True).start()
                outputs[name] = pipes[name].recv()
            times: dict[str, list[float]] = {name: [] for name in READERS}
            for name, output in outputs.items():
                worst = float(np.abs(output - outputs["headgate"]).max())
                if not worst < 1e-4:
                    raise SystemExit(f"{name} and ours disagree ({worst:.1e}): nothing was timed")
            for _ in range(options.rounds):
                for name, pipe in pipes.items():
                    time.sleep(0.2)  # until the threads of the previous process have stopped spinning
                    pipe.send(True)
                    times[name].append(pipe.recv())
            for pipe in pipes.values():
                pipe.send(False)
        ours = times.pop("headgate")
        for name, theirs in times.items():
            speedup, medians = ratio(theirs, ours), [sorted(t)[options.rounds // 2] * 1e3 for t in (theirs, ours)]
            print(f"T={T} B={B} H={H} {name:<14} {medians[0]:7.2f} / {medians[1]:7.2f} ms {speedup:6.2f}x", flush=True)
            goals[f"forward T={T} B={B} H={H} against {name}"] = (speedup, LEAST)
    conclude(goals, threads=options.threads, machine=machine(options.threads))


if __name__ == "__main__":
    main()
