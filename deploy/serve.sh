#!/bin/sh
# Refuses to start without an API key, a token issuer or LIPSERVE_NO_AUTH=true, since 0.0.0.0 is not loopback.
# Serves the models volume if it contains a model or uploads are enabled, else the demo models of the image.
set -eu
models=/models
if [ "${LIPSERVE_UPLOADS:-false}" = false ] && [ -z "$(find "$models" -name '*.onnx' -print -quit)" ]; then
    models=/opt/models
fi
exec lipserve --models "$models" --host 0.0.0.0 --port 8000 "$@"
