"""Any request is answered without failing: schemathesis over the application's OpenAPI, on a bank with entries."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from skillbank.store import Bank
from skillbank.web import Site, create_app, desk

from .conftest import ADDRESS

EXAMPLES = 25
"""Requests of each route, at most."""


@pytest.mark.slow
def test_no_request_makes_the_server_fail(queue: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "PATIENCE_S", 60.0)  # real answers, and not that they are under way
    site = Site(queue.path, actor="ada", teacher_prompts=lambda problem, pairs: [problem for _ in pairs])
    app = create_app(site)
    client = TestClient(app, base_url=ADDRESS)  # raises what the application raises
    statuses: dict[str, set[int]] = {}

    def ask(operation: schemathesis.APIOperation[Any, Any, Any]) -> None:
        statuses[operation.label] = set()

        @given(case=operation.as_strategy(), real=st.none() | st.integers(1, 18))
        @settings(max_examples=EXAMPLES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        def requested(case: schemathesis.Case, real: int | None) -> None:
            if real is not None:  # mostly ids that are there
                case.path_parameters = dict.fromkeys(case.path_parameters or {}, real)
            sent = case.as_transport_kwargs(base_url=ADDRESS)
            del sent["cookies"]
            headers = {"x-csrf-token": site.csrf} | {
                name: value for name, value in (sent.pop("headers", None) or {}).items() if value.isascii()
            }
            answer = client.request(**sent, headers=headers, follow_redirects=False)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)
            statuses[operation.label].add(answer.status_code)

        requested()

    for result in schemathesis.openapi.from_dict(app.openapi()).get_all_operations():
        ask(result.ok())
    site.close()
    assert len(statuses) > 18
    for label in ("GET /entries", "GET /entries/{entry_id}", "GET /revisions", "GET /playground", "GET /review"):
        assert 200 in statuses[label], statuses
    for label in ("POST /entries/{entry_id}/state", "POST /bulk"):
        assert statuses[label] & {200, 303}, statuses
