"""Generate the Python code of the protocol from proto/: run `python generate.py` in this folder.

The generator is pinned to the oldest runtime that the package supports, because generated code refuses a protobuf
runtime or a grpcio that is older than its generator. It is installed into a temporary environment, so the workspace
never sees it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "proto"
TARGET = HERE / "jumpstarter_protocol"
GENERATOR = ["grpcio-tools==1.72.1", "protobuf==6.30.2", "setuptools<81", "googleapis-common-protos==1.70.0"]

OWN_IMPORT = re.compile(r"^from jumpstarter\.([\w.]+) import (\w+)( as \w+)?$", re.MULTILINE)
"""An import of one of our generated modules as protoc writes it, as if `jumpstarter` were the top-level package."""


def install_generator(folder: str) -> Path:
    """Make an environment in `folder` and return its directory of third-party modules and .proto files."""
    venv.create(folder, with_pip=True)
    pip = [str(Path(folder, "bin", "python")), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *GENERATOR], check=True)
    return next(Path(folder, "lib").glob("python3*/site-packages"))


def compile_sources(folder: str, includes: Path) -> None:
    """Write messages, their type stubs and services for every file below proto/."""
    outputs = [f"--{kind}_out={TARGET}" for kind in ("python", "pyi", "grpc_python")]
    protos = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    binaries = Path(folder, "bin")
    subprocess.run(
        [binaries / "python", "-m", "grpc_tools.protoc", f"-I{SOURCES}", f"-I{includes}", *outputs, *protos],
        check=True,
        env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
    )


def make_importable() -> None:
    """Turn imports between generated modules into relative ones and make their folders packages."""
    generated = [path for pattern in ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py") for path in TARGET.rglob(pattern)]
    for path in generated:
        dots = "." * len(path.relative_to(TARGET).parts)
        path.write_text(OWN_IMPORT.sub(rf"from {dots}jumpstarter.\1 import \2\3", path.read_text()))
        for folder in path.relative_to(TARGET).parents:
            (TARGET / folder / "__init__.py").touch()


def main() -> None:
    """Install the generator, run it and adapt what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        compile_sources(folder, install_generator(folder))
    make_importable()


if __name__ == "__main__":
    main()
