"""An application of Flask for gunicorn, guarded by the ledger that the environment names."""

from __future__ import annotations

from apps import flask_app

from spanledger.web.flask import trusted_header

app = flask_app(actor=trusted_header("X-User"))
