"""Generate the Python code of the protocol from proto/: run `python generate.py` in this folder.

The generator is pinned to the oldest runtime that the package supports, because generated code
refuses a protobuf runtime or a grpcio that is older than its generator. It is installed into a
temporary environment, so the workspace never sees it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "proto"
TARGET = HERE / "jumpstarter_protocol"
GENERATOR = ["grpcio-tools==1.72.1", "protobuf==6.30.2", "setuptools<81", "googleapis-common-protos==1.70.0"]


def relative_imports(path: Path) -> None:
    """Turn imports of our own generated modules into relative ones."""
    depth = len(path.relative_to(TARGET).parts)
    text = path.read_text()
    text = re.sub(
        r"^from jumpstarter\.([\w.]+) import (\w+)( as \w+)?$",
        lambda m: f"from {'.' * depth}jumpstarter.{m[1]} import {m[2]}{m[3] or ''}",
        text,
        flags=re.MULTILINE,
    )
    path.write_text(text)


def main() -> None:
    """Generate message and service code for every file below proto/."""
    protos = sorted(str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", *GENERATOR], check=True)
        common = subprocess.run(
            [python, "-c", "import google.api, os; print(os.path.dirname(os.path.dirname(list(google.api.__path__)[0])))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
        path = f"{Path(folder) / 'bin'}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            [python, "-m", "grpc_tools.protoc", f"-I{SOURCES}", f"-I{common}",
             f"--python_out={TARGET}", f"--grpc_python_out={TARGET}", f"--pyi_out={TARGET}", *protos],
            check=True, cwd=SOURCES, env={**os.environ, "PATH": path},
        )
    for generated in [*TARGET.rglob("*_pb2.py"), *TARGET.rglob("*_pb2_grpc.py"), *TARGET.rglob("*_pb2.pyi")]:
        relative_imports(generated)
    for folder in {path.parent for path in TARGET.rglob("*_pb2.py")} | {TARGET / "jumpstarter", TARGET / "jumpstarter" / "client"}:
        (folder / "__init__.py").touch()


if __name__ == "__main__":
    sys.exit(main())
