"""How a client finds its server and credentials."""

from __future__ import annotations

import stat

import pytest

from airflow_batchexec.client import BatchJobManagerClient, ClientSettings
from airflow_batchexec.client.client_settings import normalize_server
from airflow_batchexec.exceptions import ConfigurationError

SERVER = "https://airflow.example.com"


@pytest.fixture
def write_file(tmp_path):
    path = tmp_path / ".config" / "batchexec" / "config.toml"

    def write(text, mode=0o600):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


@pytest.mark.parametrize(
    "given",
    [
        SERVER,
        f"{SERVER}/",
        f" {SERVER}/batchexec ",
        f"{SERVER}/batchexec/",
        f"{SERVER}/batchexec/api/v1/batch-job/start-job",
        f"{SERVER}/api/v1/batch-job/start-job",
        f"{SERVER}/batchexec/api/v1/batch-jobs",
    ],
)
def test_any_url_of_the_server_is_accepted(given):
    assert normalize_server(given) == SERVER
    assert normalize_server(given.replace("example.com", "example.com:8080/tools/airflow")) == (
        f"{SERVER}:8080/tools/airflow"
    )


@pytest.mark.parametrize(
    "given",
    [
        "",
        "airflow.example.com",
        "localhost:8080",
        "ftp://example.com",
        "https://",
        "http://a:b",
        "http://a:0",
    ],
)
def test_an_invalid_url_is_refused(given):
    with pytest.raises(ConfigurationError, match="server: this is not a URL") as caught:
        normalize_server(given)
    assert caught.value.details == {"field": "server"}


@pytest.mark.parametrize(
    "given",
    ["https://ada:hushhush@example.com", "https://example.com?token=hushhush", "https://a.b/#hushhush"],
)
def test_a_url_with_a_secret_is_refused_without_showing_it(given):
    with pytest.raises(ConfigurationError, match="have separate settings") as caught:
        normalize_server(given)
    assert "hushhush" not in str(caught.value)


def test_arguments_override_the_environment_which_overrides_the_file(monkeypatch, write_file, tmp_path):
    write_file('[default]\nserver = "https://file.example.com"\ntoken = "of-file"\nread_timeout = 7')
    settings = ClientSettings.find()
    assert (settings.server, settings.token) == ("https://file.example.com", "of-file")
    assert settings.read_timeout == 7
    monkeypatch.setenv("BATCHEXEC_SERVER", "https://environment.example.com")
    monkeypatch.setenv("BATCHEXEC_TOKEN", "of-environment")
    settings = ClientSettings.find(server=None, token="")
    assert (settings.server, settings.token) == ("https://environment.example.com", "of-environment")
    settings = ClientSettings.find(server=SERVER, token="of-argument", read_timeout=8)
    assert (settings.server, settings.token, settings.read_timeout) == (SERVER, "of-argument", 8)


def test_file_and_profile_can_be_selected(monkeypatch, write_file, tmp_path):
    path = write_file(
        '[default]\nserver = "https://one.example.com"\ntoken = "1"\n'
        '[two]\nserver = "https://two.example.com"\nusername = "ada"\npassword = "secret"\n'
    )
    other = path.rename(tmp_path / "other.toml")
    assert ClientSettings.find(config_file=other).token == "1"
    assert ClientSettings.find(config_file=other, profile="two").username == "ada"
    monkeypatch.setenv("BATCHEXEC_CONFIG", str(other))
    monkeypatch.setenv("BATCHEXEC_PROFILE", "two")
    assert ClientSettings.find().password == "secret"


def test_paths_in_the_file_are_relative_to_it(write_file):
    path = write_file(f'[default]\nserver = "{SERVER}"\ntoken_file = "token"\nca_bundle = "ca.pem"')
    (path.parent / "ca.pem").touch()
    settings = ClientSettings.find()
    assert settings.token_file == str(path.parent / "token")
    assert settings.ca_bundle == str(path.parent / "ca.pem")


def test_username_and_password_may_come_from_different_sources(monkeypatch, write_file):
    write_file(f'[default]\nserver = "{SERVER}"\nusername = "ada"\npassword = "of-file"')
    monkeypatch.setenv("BATCHEXEC_USERNAME", "ada")
    assert ClientSettings.find().password == "of-file"
    monkeypatch.setenv("BATCHEXEC_PASSWORD", "of-environment")
    assert ClientSettings.find().password == "of-environment"


def test_the_password_of_another_user_is_not_used(write_file):
    write_file(f'[default]\nserver = "{SERVER}"\nusername = "ada"\npassword = "of-ada"')
    with pytest.raises(ConfigurationError, match=r"^password: no password is configured for 'grace'"):
        ClientSettings.find(username="grace")
    prompted = ClientSettings.find(username="grace", ask_password=lambda user: f"of-{user}")
    assert prompted.password == "of-grace"


def test_a_token_overrides_a_user_from_a_later_source(monkeypatch, write_file):
    write_file(f'[default]\nserver = "{SERVER}"\nusername = "ada"\npassword = "of-ada"')
    monkeypatch.setenv("BATCHEXEC_TOKEN", "of-environment")
    settings = ClientSettings.find()
    assert (settings.token, settings.username, settings.password) == ("of-environment", "", "")


@pytest.mark.parametrize("secret", ['token = "hushhush"', 'username = "ada"\npassword = "hushhush"'])
def test_a_secret_is_not_sent_to_another_server(write_file, secret):
    write_file(f'[default]\nserver = "https://other.example.com"\n{secret}')
    with pytest.raises(
        ConfigurationError, match=r"no credentials are configured for .*are for https://other"
    ) as caught:
        ClientSettings.find(server=SERVER)
    assert "hushhush" not in str(caught.value)
    assert ClientSettings.find(server="https://other.example.com/batchexec")


def test_a_password_is_not_sent_to_another_server(write_file):
    write_file('[default]\nserver = "https://other.example.com"\nusername = "ada"\npassword = "hushhush"')
    with pytest.raises(ConfigurationError, match=r"^password: no password is configured"):
        ClientSettings.find(server=SERVER, username="ada")


def test_two_kinds_of_credentials_in_one_source_are_refused(monkeypatch):
    monkeypatch.setenv("BATCHEXEC_TOKEN", "t")
    monkeypatch.setenv("BATCHEXEC_USERNAME", "ada")
    with pytest.raises(ConfigurationError, match=r"^token: set either token or username, not both"):
        ClientSettings.find(server=SERVER)


def test_missing_server_error_lists_the_ways_to_set_it():
    with pytest.raises(
        ConfigurationError, match=r"^server: .*BATCHEXEC_SERVER.*\.config/batchexec/config\.toml"
    ):
        BatchJobManagerClient(token="t")
    assert ClientSettings.find(token="t", default_server="http://localhost:8080").server == (
        "http://localhost:8080"
    )


def test_missing_credentials_error_lists_the_ways_to_set_them():
    with pytest.raises(ConfigurationError, match=r"^token: .*BATCHEXEC_TOKEN.*username and password"):
        BatchJobManagerClient(SERVER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default", "cannot be read"),
        ("[other]\n", r"there is no profile \[default\]; the profiles are: other"),
        ("default = 1", "default is not a table"),
        ('[default]\ntokens = "hushhush"', "default.tokens is not a setting; the settings are server, token"),
        ('[default]\ntoken = ["hushhush"]', "default.token must be a string"),
        ('[default]\nread_timeout = "hushhush"', "default.read_timeout must be a number"),
        ("[default]\nretries = true", "default.retries must be a number"),
    ],
)
def test_an_invalid_file_is_refused_without_showing_its_values(write_file, text, message):
    path = write_file(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        ClientSettings.find(server=SERVER, token="t")
    assert str(path) in str(caught.value)
    assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize("argument", ["profile", "config_file"])
def test_an_explicit_file_must_exist(argument, tmp_path):
    with pytest.raises(ConfigurationError, match="the file does not exist"):
        ClientSettings.find(server=SERVER, token="t", **{argument: str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("field", "value"),
    [("connect_timeout", -1), ("read_timeout", float("nan")), ("retries", -1), ("retries", 1.5)],
)
def test_an_invalid_number_is_refused(field, value):
    with pytest.raises(ConfigurationError, match=f"^{field}: ") as caught:
        ClientSettings.find(server=SERVER, token="t", **{field: value})
    assert caught.value.details == {"field": field}


def test_the_ca_bundle_must_exist(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^ca_bundle: .* does not exist"):
        ClientSettings.find(server=SERVER, token="t", ca_bundle=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("readers", [stat.S_IRGRP, stat.S_IROTH])
def test_a_readable_file_with_a_secret_is_warned_about(write_file, caplog, readers):
    text = f'[default]\nserver = "{SERVER}"\ntoken = "hushhush"'
    path = write_file(text)
    ClientSettings.find()
    assert caplog.text == ""
    write_file(text, 0o600 | readers)
    ClientSettings.find()
    assert f"chmod 600 {path}" in caplog.text
    assert "hushhush" not in caplog.text


def test_a_file_without_a_secret_may_be_world_readable(write_file, caplog):
    write_file(f'[default]\nserver = "{SERVER}"\ntoken_file = "token"', 0o644)
    ClientSettings.find()
    assert caplog.text == ""


def test_secrets_are_not_in_the_repr_of_settings():
    settings = ClientSettings(server=SERVER, token="hushhush", password="hushhush")
    assert "hushhush" not in repr(settings) + str(settings)
