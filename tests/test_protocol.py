"""The protocol seen by others: NVIDIA's client, and requests made from the description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from traceback import format_exception
from typing import Any

import numpy as np
import pytest

from vtaflow import InferenceSession

from .servers import TOKEN, Running, json_request, network, rows, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("store"), "emulator") as one:
        one.client.install(network(), "net")
        yield one


def right(count: int) -> Any:
    with InferenceSession(network()) as session:
        return session.run(None, rows(count))[0]


# --- tritonclient ------------------------------------------------------------------------------


@pytest.fixture
def triton(running: Running) -> Iterator[Any]:
    http = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    client = http.InferenceServerClient(running.url.removeprefix("http://"))
    yield client
    client.close()


def test_triton_health_and_metadata(triton: Any) -> None:
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("net") and not triton.is_model_ready("other")
    assert triton.is_model_ready("net", network().digest[:12])
    assert triton.get_server_metadata()["name"] == "vtaflow"
    found = triton.get_model_metadata("net")
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 12]}]
    assert found["versions"] == [network().digest[:12]]


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("count", [1, 5])
def test_triton_inference(triton: Any, binary_in: bool, binary_out: bool, count: int) -> None:
    from tritonclient.http import InferInput, InferRequestedOutput

    given = InferInput("x", [count, 12], "FP32")
    given.set_data_from_numpy(rows(count)["x"], binary_data=binary_in)
    wanted = InferRequestedOutput("y", binary_data=binary_out)
    result = triton.infer("net", [given], outputs=[wanted], request_id="17")
    found = result.as_numpy("y")
    assert found.dtype == np.float32
    assert np.array_equal(found.reshape(count, 5), right(count))
    assert result.get_response()["id"] == "17"


def test_triton_takes_all_outputs_without_naming_any(triton: Any) -> None:
    from tritonclient.http import InferInput

    given = InferInput("x", [2, 12], "FP32")
    given.set_data_from_numpy(rows(2)["x"])
    assert np.array_equal(triton.infer("net", [given]).as_numpy("y"), right(2))


def test_triton_is_told_of_mistakes(triton: Any) -> None:
    from tritonclient.http import InferInput
    from tritonclient.utils import InferenceServerException

    given = InferInput("x", [1, 7], "FP32")
    given.set_data_from_numpy(np.zeros((1, 7), np.float32))
    with pytest.raises(InferenceServerException, match=r"expected float32\[batch, 12\]"):
        triton.infer("net", [given])
    with pytest.raises(InferenceServerException, match="not loaded"):
        triton.get_model_metadata("other")


def test_triton_repository_and_statistics(triton: Any) -> None:
    version = network().digest[:12]
    ready = {"name": "net", "version": version, "state": "READY", "reason": ""}
    assert triton.get_model_repository_index() == [ready]
    triton.unload_model("net")
    assert not triton.is_model_ready("net")
    assert triton.get_model_repository_index()[0]["state"] == "UNAVAILABLE"
    triton.load_model("net")
    assert triton.get_model_repository_index() == [ready]
    test_triton_takes_all_outputs_without_naming_any(triton)
    (stats,) = triton.get_inference_statistics("net")["model_stats"]
    assert (stats["inference_count"], stats["execution_count"]) == (2, 1)


def test_triton_with_a_token(tmp_path_factory: pytest.TempPathFactory) -> None:
    http = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    from tritonclient.utils import InferenceServerException

    with serving(tmp_path_factory.mktemp("store"), token=TOKEN) as one:
        client = http.InferenceServerClient(one.url.removeprefix("http://"))
        assert client.is_server_live()
        with pytest.raises(InferenceServerException, match="bearer token is needed"):
            client.get_server_metadata()
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get_server_metadata(headers=headers)["name"] == "vtaflow"
        client.close()


# --- the description ---------------------------------------------------------------------------

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")

from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402

from vtaflow.runtime.server.routes import openapi_text  # noqa: E402

DESCRIPTION = schemathesis.openapi.from_dict(json.loads(openapi_text()))
EXAMPLES = 8


@DESCRIPTION.parametrize()  # type: ignore[untyped-decorator]
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: Any, running: Running) -> None:
    """Any request that can be made up is answered by a status and a body of the description."""
    if case.operation.path.startswith("/v2/repository/models/") and case.method == "DELETE":
        case.path_parameters = {"model": "nobody"}
    excluded = [schemathesis.checks.not_a_server_error]  # 503 and 507 are described
    if case.method == "PUT":
        excluded.append(positive_data_acceptance)  # what is made up is no artifact
    case.call_and_validate(base_url=running.url, excluded_checks=excluded)


def test_legal_requests_are_described_as_legal(running: Running) -> None:
    """What clients send passes the description's own schema, and so do the answers."""
    operation = DESCRIPTION["/v2/models/{model}/infer"]["POST"]
    request = {
        **json_request(),
        "id": "a",
        "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
        "parameters": {"statistics": True},
    }
    case = operation.Case(
        path_parameters={"model": "net"}, body=request, media_type="application/json"
    )
    answer = case.call(base_url=running.url)
    assert answer.status_code == 200
    case.validate_response(answer)
    status = DESCRIPTION["/v2/status"]["GET"].Case().call_and_validate(base_url=running.url)
    assert status.json()["models"][0]["last_run"]["counters"]["gemm_counter"] > 0


def test_the_description_can_be_broken(running: Running) -> None:
    """A server that answers otherwise is found out."""
    broken = json.loads(openapi_text())
    schema = broken["components"]["schemas"]["metadata_server_response"]
    schema["required"].append("missing")
    operation = schemathesis.openapi.from_dict(broken)["/v2"]["GET"]
    with pytest.raises(BaseException) as caught:  # noqa: B017 - a group made at run time
        operation.Case().call_and_validate(base_url=running.url)
    assert '"missing" is a required property' in "".join(format_exception(caught.value))
