"""Renews cuda-kernels.md: what NVRTC and ptxas make of every CUDA kernel. Neither needs a GPU.

    python -m venv ENV && ENV/bin/pip install nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cuda-crt \
        nvidia-cuda-cccl nvidia-cuda-nvcc
    ENV/bin/python kernels/compute/cuda-kernels.py

Fails when a kernel does not compile or spills registers. `--check` compiles without writing.
"""

import ctypes
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nvidia

HERE = Path(__file__).resolve().parent
ARCHITECTURES = ["sm_80", "sm_90a"]
CUDA = next(path for root in nvidia.__path__ for path in Path(root).glob("cu*") if (path / "bin/ptxas").exists())
NVRTC = ctypes.CDLL(str(next((CUDA / "lib").glob("libnvrtc.so.*"))))


def nvrtc_text(program, size, get):
    length = ctypes.c_size_t()
    getattr(NVRTC, size)(program, ctypes.byref(length))
    text = ctypes.create_string_buffer(length.value)
    getattr(NVRTC, get)(program, text)
    return text.value.decode()


def ptx(source, architecture):
    """As CubeCL's runtime calls it."""
    program = ctypes.c_void_p()
    NVRTC.nvrtcCreateProgram(ctypes.byref(program), source.encode(), None, 0, None, None)
    include = CUDA / "include"
    options = [f"--gpu-architecture={architecture}", f"--include-path={include}", f"--include-path={include}/cccl", "-lineinfo"]
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    if NVRTC.nvrtcCompileProgram(program, len(options), given) != 0:
        sys.exit(nvrtc_text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog"))
    text = nvrtc_text(program, "nvrtcGetPTXSize", "nvrtcGetPTX")
    NVRTC.nvrtcDestroyProgram(ctypes.byref(program))
    return text


def assemble(text, architecture, name, folder):
    """Registers, and bytes that do not fit in them."""
    path = folder / f"{name}.{architecture}.ptx"
    path.write_text(text)
    command = [CUDA / "bin/ptxas", "-v", f"-arch={architecture}", path, "-o", path.with_suffix(".cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        sys.exit(said)
    registers = int(re.search(r"Used (\d+) registers", said)[1])
    stack, stores, loads = (int(re.search(rf"(\d+) bytes {what}", said)[1]) for what in ["stack frame", "spill stores", "spill loads"])
    return registers, max(stack, stores, loads)


def version():
    major, minor = ctypes.c_int(), ctypes.c_int()
    NVRTC.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def main():
    rows, spilled = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # Selected as the workspace is, so that nothing is compiled again.
        test = ["cargo", "test", "-p", "kernels", "-p", "lab-cli", "--test", "cuda", "--", "--ignored", "--exact", "table::write_the_kernels"]
        subprocess.run(test, check=True, cwd=HERE, env=os.environ | {"CUDA_KERNELS_TO": str(folder)})
        lines = (folder / "list.tsv").read_text().splitlines()

        def compiled(i):
            source = (folder / f"{i}.cu").read_text()
            return [assemble(ptx(source, architecture), architecture, i, folder) for architecture in ARCHITECTURES]

        # Both compilers run outside of Python's lock.
        with ThreadPoolExecutor() as pool:
            for line, found in zip(lines, pool.map(compiled, range(len(lines)))):
                name, units, shared, key = line.split("\t")
                spills = max(bytes for _, bytes in found)
                if spills:
                    spilled.append(name)
                registers = " | ".join(str(count) for count, _ in found)
                rows.append(f"| `{name}` | {units} | {shared} | {registers} | {spills} | `{key}` |")
                print(rows[-1], flush=True)
    if spilled:
        sys.exit(f"spills: {', '.join(spilled)}")
    if "--check" not in sys.argv:
        (HERE / "cuda-kernels.md").write_text(
            f"""# The CUDA kernels, compiled

Every kernel is expanded to CUDA C++ without a GPU, compiled by NVRTC {version()} for sm_80 and sm_90a with the options of
CubeCL's runtime, and assembled by `ptxas`. Numbers after a name are widths of a head (queries and keys, values); `by N` is the
same pass in steps of another length, and the tuner takes the fastest. A test compares the last column with the kernels as they
are; `cuda-kernels.py` renews this file and refuses a kernel that spills.

None of these kernels has run on a GPU yet: [the record](cuda-selftest.md) is empty, and they run where `ATTENTION_CUDA_KERNELS=1`
asks for them. What they compute is tested on the CPU: the operators run as they do on a GPU, up to the launch, and an
emulator of blocks, planes and tensor-core instructions runs this same CUDA C++ (`tests/cuda`).

| kernel | threads of a block | shared memory, bytes | registers, sm_80 | registers, sm_90a | spilled bytes | source |
|---|---|---|---|---|---|---|
"""
            + "\n".join(rows)
            + "\n"
        )


if __name__ == "__main__":
    main()
