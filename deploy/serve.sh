#!/bin/sh
# Without a key, a token issuer or LIPSERVE_NO_AUTH=true it refuses to start: 0.0.0.0 is beyond this machine.
# Serves the models volume if it holds any model or is to take uploads, else the demo models of the image.
set -eu
models=/models
if [ "${LIPSERVE_UPLOADS:-false}" = false ] && [ -z "$(find "$models" -name '*.onnx' -print -quit)" ]; then
    models=/opt/models
fi
exec lipserve --models "$models" --host 0.0.0.0 --port 8000 "$@"
