"""The service keeps to its own schema, whatever is sent (schemathesis)."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    use_after_free,
)

from served import running, until

TOKEN = "schema"
EXAMPLES = 8  # of each operation
# Not those that ask whether values of the schema are taken: a random file is no picture, and no job has a random id.
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
    use_after_free,
]


@pytest.fixture(scope="module")
def served(local_folder):
    with running(local_folder, token=TOKEN, max_megapixels=0.05, max_pending_megapixels=1) as found:
        yield found


@pytest.fixture(scope="module")
def described(served):
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


OPERATIONS = [
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/readyz"),
    ("GET", "/v1/about"),
    ("POST", "/v1/jobs"),
    ("DELETE", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}/images/{number}"),
    ("GET", "/v1/jobs/{id}/maps/{kind}"),
    ("POST", "/v1/restore"),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part)
def test_the_service_keeps_to_its_schema(described, method, path):
    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=[*HealthCheck])
    @given(case=_cases(described[path][method]))
    def call(case):
        case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS, timeout=30)

    call()


def _cases(operation):
    """What the schema allows, and what it does not."""
    return st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))


def test_everything_was_called_and_it_is_still_there(served, described):
    found = {(one.ok().method.upper(), one.ok().path) for one in described.get_all_operations()}
    assert found == {*OPERATIONS}
    assert served.http.get("/healthz").status_code == 200
    until(lambda: served.service.pending == 0)
