"""Ask an MLflow server what it makes of the traces of an experiment; run by the Python that has MLflow installed."""

from __future__ import annotations

import json
import sys

import mlflow

mlflow.set_tracking_uri(sys.argv[1])
found = []
for trace in mlflow.search_traces(locations=[sys.argv[2]], return_type="list"):
    for span in trace.data.spans:
        usage = trace.info.token_usage or {}
        found.append(
            {
                "trace": trace.info.trace_id,
                "name": span.name,
                "kind": span.span_type,
                "session": trace.info.trace_metadata.get("mlflow.trace.session"),
                "tokens_of_trace": [usage.get("input_tokens"), usage.get("output_tokens")],
                "attributes": {key: value for key, value in span.attributes.items() if not key.startswith("mlflow.")},
                "status": span.status.status_code.value,
            }
        )
json.dump(found, sys.stdout, default=str)
