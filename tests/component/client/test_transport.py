"""The transport between client and server: real sockets, and every kind of response."""

from __future__ import annotations

import ipaddress
import logging
import pickle
import threading
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from scripted_server import DROP, START, STARTED, Reply, ScriptedServer, jwt, status_of

from airflow_batchexec.client.credentials import PasswordLogin
from airflow_batchexec.exceptions import (
    ConfigurationError,
    NotAllowedError,
    ServerUnreachableError,
    UnexpectedAnswerError,
    UntrustedServerError,
)

STATUS = "GET /batchexec/api/v1/batch-job/rest__1/status"
CANCEL = "POST /batchexec/api/v1/batch-job/rest__1/cancel"
LOGIN = "POST /auth/token"
RUNNING = status_of("RUNNING", 1, 3)
TOKEN = "a-token-that-must-stay-secret"


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(DROP, id="dropped"),
        pytest.param(Reply(body=RUNNING, cut=True), id="cut"),
        pytest.param(Reply(429, {"detail": "slowly"}), id="too-many"),
        pytest.param(Reply(502, "<html>proxy</html>"), id="bad-gateway"),
        pytest.param(Reply(503, {"failure_message": "The database is locked."}), id="unavailable"),
        pytest.param(Reply(504, ""), id="gateway-timeout"),
    ],
)
def test_calls_without_a_response_are_retried(server, client, pauses, bad):
    server.on(STATUS, bad, bad, RUNNING)
    assert client.get_execution_status("rest__1").finished_files == 1
    assert server.calls() == [STATUS] * 3
    assert 0.5 <= pauses[0] < pauses[1] <= 1.5


def test_pauses_grow_to_a_limit_with_jitter(server, make_client, pauses):
    server.on(STATUS, *[DROP] * 8, RUNNING)
    make_client(retries=8).get_execution_status("rest__1")
    grown = [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert all(least <= pause <= least + 0.5 for pause, least in zip(pauses, grown, strict=True))
    assert len(set(pauses)) == 8


@pytest.mark.parametrize(
    ("retry_after", "pause"), [("7", 7), ("86400", 60), ("Wed, 21 Oct 2026 07:28:00 GMT", 0)]
)
def test_retry_after_is_honoured_up_to_a_limit(server, client, pauses, retry_after, pause):
    server.on(STATUS, Reply(503, {}, {"Retry-After": retry_after}), RUNNING)
    client.get_execution_status("rest__1")
    assert pauses[0] == pytest.approx(pause, abs=1.5)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 415, 422])
def test_refused_calls_return_a_result_and_are_not_retried(server, client, config, status):
    refused = {"batch_id": "", "success": False, "failure_message": "model_id: it is required."}
    server.on(f"POST {START}", Reply(status, refused))
    result = client.start_execution(config)
    assert (result.success, result.failure_message) == (False, "model_id: it is required.")
    assert (result.status_code, result.wire) == (status, refused)
    assert len(server.received) == 1


def test_a_retried_start_keeps_its_key_and_another_call_gets_another_key(server, client, config, pauses):
    server.on(f"POST {START}", DROP, Reply(503, {}), STARTED)
    assert client.start_execution(config).execution_id == "rest__1"
    assert client.start_execution(config).execution_id == "rest__1"
    client.start_execution(config, idempotency_key="my-own")
    keys = [request.headers["Idempotency-Key"] for request in server.received]
    assert keys[0] == keys[1] == keys[2]
    assert len({*keys}) == 3
    assert keys[-1] == "my-own"


def test_a_cancel_whose_response_was_lost_has_succeeded(server, client, pauses):
    ended = {"success": False, "failure_message": "It has ended."}
    server.on(CANCEL, DROP, Reply(409, ended))
    server.on(STATUS, status_of("CANCELLED"))
    assert client.cancel_execution("rest__1").success
    server.on(STATUS, status_of("FINISHED"))
    server.on(CANCEL, DROP, Reply(409, ended))
    assert not client.cancel_execution("rest__1").success


def test_cancelling_an_execution_cancelled_earlier_is_refused(server, client):
    server.on(CANCEL, Reply(409, {"success": False, "failure_message": "It has ended."}))
    assert not client.cancel_execution("rest__1").success
    assert server.calls() == [CANCEL]


def test_a_refused_connection_is_reported(make_client, closed_port, pauses):
    client = make_client(f"http://127.0.0.1:{closed_port}", retries=2)
    with pytest.raises(
        ServerUnreachableError, match=rf"http://127.0.0.1:{closed_port} cannot be reached: Conn.* refused"
    ):
        client.get_execution_status("rest__1")
    assert len(pauses) == 2


def test_an_unknown_host_is_reported(make_client, pauses):
    with pytest.raises(ServerUnreachableError, match="unknown host"):
        make_client("http://unknown.invalid").get_execution_status("rest__1")


def test_an_invalid_url_is_refused(make_client, pauses):
    with pytest.raises(ConfigurationError, match=r"^server: http://no where\.example\.com or"):
        make_client("http://no where.example.com").get_execution_status("rest__1")
    assert pauses == []


def test_a_proxy_is_used_and_its_password_is_not_shown(server, make_client, pauses, monkeypatch, closed_port):
    monkeypatch.setenv("http_proxy", f"http://ada:lovelace@127.0.0.1:{closed_port}")
    with pytest.raises(ServerUnreachableError, match=r"proxy .* rejected the request") as caught:
        make_client(retries=0).get_execution_status("rest__1")
    assert "lovelace" not in "".join(traceback.format_exception(caught.value))
    assert server.received == []


def test_the_reason_of_an_unavailable_server_is_quoted(server, make_client, pauses):
    server.on(STATUS, Reply(503, {"failure_message": "There is no DAG batch_execution."}))
    with pytest.raises(
        ServerUnreachableError, match=r"is unavailable: 503 There is no DAG batch_execution\."
    ):
        make_client(retries=1).get_execution_status("rest__1")
    assert len(server.received) == 2


def test_the_read_timeout_limits_a_silent_server(server, make_client, pauses):
    server.on(STATUS, Reply(body=RUNNING, gate=threading.Event()), RUNNING)
    assert make_client(read_timeout=1.5).get_execution_status("rest__1").total_files == 3
    assert len(server.received) == 2
    server.on(STATUS, Reply(body=RUNNING, gate=threading.Event()))
    with pytest.raises(ServerUnreachableError, match="response timed out"):
        make_client(read_timeout=0.2, retries=0).get_execution_status("rest__1")


@pytest.mark.parametrize("status", [401, 403])
def test_missing_permissions_raise_with_the_reason(server, client, status):
    server.on(STATUS, Reply(status, {"success": False, "failure_message": "You may not read runs of d."}))
    with pytest.raises(NotAllowedError, match=rf"{status} You may not read runs of d\.$") as caught:
        client.get_execution_status("rest__1")
    assert caught.value.details == {"server": server.url, "status_code": status}
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(404, {"detail": "Not Found"}), "There is no batch API at .*provider installed"),
        (
            Reply(500, {"success": False, "failure_message": "Error 4711."}),
            r"failed: 500 Error 4711\.$",
        ),
        (Reply(200, "<html>Sign in</html>"), r"not from the batch API: 200\.$"),
        (Reply(200, "[" * 100_000), "not from the batch API"),
        (Reply(200, {"job_status": "RUNNING"}), "not from the batch API"),
        (Reply(200, {**RUNNING, "job_status": "NAPPING"}), "job_status has the wrong type or value"),
        (Reply(200, {**RUNNING, "total_files": [3]}), "total_files has the wrong type or value"),
    ],
)
def test_responses_not_from_the_api_are_errors(server, client, reply, message):
    server.on(STATUS, reply)
    with pytest.raises(UnexpectedAnswerError, match=message):
        client.get_execution_status("rest__1")
    assert len(server.received) == 1


def test_redirects_within_the_server_keep_method_body_and_headers(server, client, config):
    server.on(f"POST {START}", Reply(307, "", {"Location": "/elsewhere"}))
    server.on("POST /elsewhere", Reply(302, "", {"Location": "./moved"}))
    server.on("POST /moved", STARTED)
    assert client.start_execution(config).success
    first, _, last = server.received
    assert last.document == first.document
    for name in ("Authorization", "Idempotency-Key"):
        assert last.headers[name] == first.headers[name]


def test_a_redirect_to_another_server_is_not_followed(server, client):
    with ScriptedServer() as other:
        server.on(STATUS, Reply(307, "", {"Location": f"{other.url}/login?next=here"}))
        with pytest.raises(UnexpectedAnswerError, match=r"redirects to http://127.0.0.1"):
            client.get_execution_status("rest__1")
        assert other.received == []


def test_a_redirect_loop_is_an_error(server, client):
    server.on(STATUS, Reply(307, "", {"Location": STATUS.split()[1]}))
    with pytest.raises(UnexpectedAnswerError, match="too many redirects"):
        client.get_execution_status("rest__1")


def test_the_token_overrides_netrc(server, client, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ada password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    server.on(STATUS, RUNNING)
    client.get_execution_status("rest__1")
    assert server.received[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_password_login_happens_on_first_use(server, make_client):
    server.on(LOGIN, Reply(201, {"access_token": jwt(lives=3600)}))
    server.on(STATUS, RUNNING)
    client = make_client(username="ada", password="lovelace")
    assert server.received == []
    client.get_execution_status("rest__1")
    client.get_execution_status("rest__1")
    assert server.calls() == [LOGIN, STATUS, STATUS]
    assert server.received[0].document == {"username": "ada", "password": "lovelace"}
    assert "Authorization" not in server.received[0].headers
    assert server.received[1].headers["Authorization"] == f"Bearer {jwt(lives=3600)}"


def test_a_refused_token_is_renewed_once(server, make_client):
    server.on(
        LOGIN,
        *[Reply(201, {"access_token": jwt(lives=3600, number=number)}) for number in range(2)],
    )
    server.on(STATUS, RUNNING, Reply(401, {"detail": "expired"}), RUNNING, Reply(401, {"detail": "no"}))
    client = make_client(username="ada", password="lovelace")
    client.get_execution_status("rest__1")
    client.get_execution_status("rest__1")
    assert server.calls() == [LOGIN, STATUS, STATUS, LOGIN, STATUS]
    assert server.received[-1].headers["Authorization"] == f"Bearer {jwt(lives=3600, number=1)}"
    with pytest.raises(NotAllowedError, match="401 no"):
        client.get_execution_status("rest__1")
    assert server.calls()[5:] == [STATUS, LOGIN, STATUS]


@pytest.mark.parametrize(("lives", "good_for"), [(10, 8), (300, 240), (86_400, 86_340)])
def test_a_token_is_renewed_before_it_expires_despite_clock_skew(lives, good_for):
    now, tokens = [5.0], []

    def login():
        tokens.append(jwt(lives=lives, issued=4e9, number=len(tokens)))
        return tokens[-1]

    credentials = PasswordLogin(login, clock=lambda: now[0])
    assert credentials.token() == tokens[0]
    now[0] += good_for - 0.1
    assert credentials.token() == tokens[0]
    now[0] += 0.2
    assert credentials.token() == tokens[1]


@pytest.mark.parametrize("token", ["opaque", "a.b.c", "e30.e30.e30", "e30.bnVsbA.e30"])
def test_a_token_without_expiry_is_used_until_it_is_refused(token):
    made = []
    credentials = PasswordLogin(lambda: made.append(token) or token, clock=iter([0.0, 1e9, 2e9]).__next__)
    assert {credentials.token() for _ in range(3)} == {token}
    assert len(made) == 1


def test_only_one_thread_renews_the_token():
    made = []
    credentials = PasswordLogin(lambda: made.append(1) or f"token-{len(made)}")
    first = credentials.token()
    threads = [threading.Thread(target=credentials.renew, args=[first]) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert credentials.token() == "token-2"


def test_a_refused_login_names_the_user(server, make_client):
    server.on(LOGIN, Reply(401, {"detail": "Invalid credentials"}))
    with pytest.raises(
        NotAllowedError, match=r"refused the login of 'ada': 401 Invalid credentials"
    ) as caught:
        make_client(username="ada", password="lovelace").get_execution_status("rest__1")
    assert "lovelace" not in repr(caught.value)
    assert server.calls() == [LOGIN]


def test_logins_are_retried_like_other_calls(server, make_client, pauses):
    server.on(LOGIN, Reply(503, {}))
    with pytest.raises(ServerUnreachableError, match="is unavailable"):
        make_client(username="ada", password="lovelace", retries=2).get_execution_status("rest__1")
    assert server.calls() == [LOGIN] * 3


def test_a_server_without_password_login_suggests_a_token(server, make_client):
    with pytest.raises(UnexpectedAnswerError, match="set a token"):
        make_client(username="ada", password="lovelace").get_execution_status("rest__1")


def test_the_token_file_is_read_again_if_the_token_is_refused(server, make_client, tmp_path):
    path = tmp_path / "token"
    path.write_text("first\n")
    server.on(STATUS, RUNNING)
    client = make_client(token_file=path)
    client.get_execution_status("rest__1")
    path.write_text("second\n")
    server.on(STATUS, Reply(401, {}), RUNNING)
    client.get_execution_status("rest__1")
    sent = [request.headers["Authorization"] for request in server.received]
    assert sent == ["Bearer first", "Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", ["", "two words", "päss"])
def test_an_invalid_token_file_is_an_error_that_does_not_show_its_content(make_client, tmp_path, content):
    (tmp_path / "token").write_text(content)
    with pytest.raises(ConfigurationError, match=r"^token_file: this is not a token") as caught:
        make_client(token_file=tmp_path / "token").get_execution_status("rest__1")
    assert not content or content not in str(caught.value)


def test_secrets_are_not_in_errors_logs_or_reprs(server, make_client, caplog, pauses):
    caplog.set_level(logging.DEBUG)
    server.on(STATUS, DROP, Reply(503, {}), Reply(403, {"detail": "no"}))
    server.on(LOGIN, Reply(201, {"access_token": TOKEN}))
    client = make_client(username="ada", password="lovelace")
    with pytest.raises(NotAllowedError) as caught:
        client.get_execution_status("rest__1")
    shown = "\n".join(
        [
            *traceback.format_exception(caught.value),
            repr(pickle.dumps(caught.value)),
            repr(client.settings),
            caplog.text,
        ]
    )
    assert "Retrying in" in shown
    assert TOKEN not in shown
    assert "lovelace" not in shown


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A file with a key and a self-signed certificate for the loopback interface."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "batchexec tests")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_the_certificate_must_be_trusted_and_ca_bundle_adds_a_private_ca(
    make_client, certificate, monkeypatch
):
    with ScriptedServer(certificate) as server:
        server.on(STATUS, RUNNING)
        with pytest.raises(UntrustedServerError, match=r"is not trusted: self-signed .* ca_bundle"):
            make_client(server.url).get_execution_status("rest__1")
        assert server.received == []
        # REQUESTS_CA_BUNDLE does not override ca_bundle.
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
        assert make_client(server.url, ca_bundle=certificate).get_execution_status("rest__1").success


def test_https_to_an_http_server_is_reported(server, make_client):
    with pytest.raises(UntrustedServerError, match="does not speak TLS"):
        make_client(server.url.replace("http:", "https:")).get_execution_status("rest__1")
