#!/bin/sh
# Without a key, a token issuer or LIPSERVE_NO_AUTH=true it refuses to start: 0.0.0.0 is beyond this machine.
# Serves the models volume if it holds any model, else the demo models of the image.
set -eu
models=/models
ls "$models"/*.onnx >/dev/null 2>&1 || models=/opt/models
exec lipserve --models "$models" --host 0.0.0.0 --port 8000 "$@"
