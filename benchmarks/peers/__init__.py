"""Other ways to serve the same model: minimal untuned apps, each in an environment of its own.

One file an app; they are run, never imported: each needs what only its environment has.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from benchmarks.wire import ECHO, ECHO_NPY, ROWS, V2_BINARY, V2_JSON, Wire

APPS = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """Server of a peer.

    Attributes:
        app: its file in this folder.
        requirement: package of its environment beside onnxruntime; None for this environment.
        batched: ask the server to merge requests, where that is an option.
        kind: "peer", or "limit" for a server without a model, which no server can exceed.
    """

    name: str
    app: str
    requirement: str | None
    wires: tuple[Wire, ...]
    batched: bool = False
    kind: str = "peer"

    def environment(self, folder: Path) -> Path:
        """Return its environment, below the folder of all."""
        return folder.resolve() / self.app.removesuffix("_app.py")

    def command(self, folder: Path, model: Path, port: int) -> list[str]:
        """Return the command that serves a model on a port.

        Raises:
            RuntimeError: its environment does not exist.
        """
        if self.requirement is None:
            python = Path(sys.executable)
        else:
            python = self.environment(folder) / "bin" / "python"
            if not python.exists():
                raise RuntimeError("not installed; --install does that")
        if self.app == "bentoml_app.py":  # is started by a command of its own
            serve = [str(python), "-m", "bentoml", "serve", "bentoml_app:Service", "--working-dir", str(APPS)]
            return [*serve, "--host", "127.0.0.1", "--port", str(port)]
        return [str(python), str(APPS / self.app), str(model), str(port), *["batched"] * self.batched]

    def variables(self, folder: Path, model: Path) -> dict[str, str]:
        """Return environment variables: its own commands first, no tracking, and the arguments of BentoML."""
        commands = {"PATH": f"{self.environment(folder) / 'bin'}:/usr/bin:/bin"} if self.requirement else {}
        quiet = {"BENTOML_DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": ""}
        return commands | quiet | {"MODEL": str(model)} | ({"BATCHED": "1"} if self.batched else {})

    def install(self, folder: Path) -> str | None:
        """Make its environment unless it exists; return the reason of a failure, else None."""
        environment = self.environment(folder)
        if self.requirement is None or (environment / "bin" / "python").exists():
            return None
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        command = [environment / "bin" / "python", "-m", "pip", "install", "-q", self.requirement]
        command.append(f"onnxruntime=={onnxruntime.__version__}")
        run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if run.returncode == 0:
            return None
        (environment / "bin" / "python").unlink()
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        return f"does not install: {(errors or [run.stderr])[-1][-200:]}"


JSON_ONLY, LITSERVE, MLSERVER = (ROWS,), "litserve==0.2.19", "mlserver==1.7.1"
BENTOML, RAY = "bentoml==1.4.40", "ray[serve]==2.60.0"
PEERS = (
    Peer("uvicorn, echo", "echo_app.py", None, (ECHO, ECHO_NPY), kind="limit"),
    Peer("FastAPI, pydantic lists", "fastapi_app.py", None, JSON_ONLY),
    Peer("LitServe", "litserve_app.py", LITSERVE, JSON_ONLY),
    Peer("LitServe, batched", "litserve_app.py", LITSERVE, JSON_ONLY, batched=True),
    Peer("MLServer", "mlserver_app.py", MLSERVER, (V2_JSON,)),
    Peer("MLServer, batched", "mlserver_app.py", MLSERVER, (V2_JSON,), batched=True),
    Peer("BentoML", "bentoml_app.py", BENTOML, JSON_ONLY),
    Peer("BentoML, batched", "bentoml_app.py", BENTOML, JSON_ONLY, batched=True),
    Peer("Ray Serve", "ray_app.py", RAY, JSON_ONLY),
    Peer("Ray Serve, batched", "ray_app.py", RAY, JSON_ONLY, batched=True),
    Peer("Triton by pytriton", "triton_app.py", "nvidia-pytriton==0.7.0", (V2_JSON, V2_BINARY)),
)
