"""Where a client finds its server and who it is."""

from __future__ import annotations

import stat

import pytest

from airflow_batchexec.client import BatchJobManagerClient, ClientSettings
from airflow_batchexec.client.settings import server_address
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
def test_whatever_part_of_the_address_is_at_hand_will_do(given):
    assert server_address(given) == SERVER
    assert server_address(given.replace("example.com", "example.com:8080/tools/airflow")) == (
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
def test_what_is_no_address_is_refused(given):
    with pytest.raises(ConfigurationError, match="server: this is no address") as caught:
        server_address(given)
    assert caught.value.details == {"field": "server"}


@pytest.mark.parametrize(
    "given",
    ["https://ada:hushhush@example.com", "https://example.com?token=hushhush", "https://a.b/#hushhush"],
)
def test_an_address_with_a_secret_in_it_is_refused_without_showing_it(given):
    with pytest.raises(ConfigurationError, match="settings of their own") as caught:
        server_address(given)
    assert "hushhush" not in str(caught.value)


def test_arguments_go_before_the_environment_and_that_before_the_file(monkeypatch, write_file, tmp_path):
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


def test_the_file_and_its_table_can_be_named(monkeypatch, write_file, tmp_path):
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


def test_paths_in_the_file_are_beside_it(write_file):
    path = write_file(f'[default]\nserver = "{SERVER}"\ntoken_file = "token"\nca_bundle = "ca.pem"')
    (path.parent / "ca.pem").touch()
    settings = ClientSettings.find()
    assert settings.token_file == str(path.parent / "token")
    assert settings.ca_bundle == str(path.parent / "ca.pem")


def test_a_user_name_and_its_password_may_come_from_different_places(monkeypatch, write_file):
    write_file(f'[default]\nserver = "{SERVER}"\nusername = "ada"\npassword = "of-file"')
    monkeypatch.setenv("BATCHEXEC_USERNAME", "ada")
    assert ClientSettings.find().password == "of-file"
    monkeypatch.setenv("BATCHEXEC_PASSWORD", "of-environment")
    assert ClientSettings.find().password == "of-environment"


def test_a_password_of_somebody_else_is_not_used(write_file):
    write_file(f'[default]\nserver = "{SERVER}"\nusername = "ada"\npassword = "of-ada"')
    with pytest.raises(ConfigurationError, match=r"^password: there is none for 'grace'"):
        ClientSettings.find(username="grace")
    asked = ClientSettings.find(username="grace", ask_password=lambda user: f"of-{user}")
    assert asked.password == "of-grace"


def test_a_token_here_goes_before_a_user_there(monkeypatch, write_file):
    write_file(f'[default]\nserver = "{SERVER}"\nusername = "ada"\npassword = "of-ada"')
    monkeypatch.setenv("BATCHEXEC_TOKEN", "of-environment")
    settings = ClientSettings.find()
    assert (settings.token, settings.username, settings.password) == ("of-environment", "", "")


@pytest.mark.parametrize("secret", ['token = "hushhush"', 'username = "ada"\npassword = "hushhush"'])
def test_a_secret_is_not_sent_to_a_server_that_it_is_not_for(write_file, secret):
    write_file(f'[default]\nserver = "https://other.example.com"\n{secret}')
    with pytest.raises(
        ConfigurationError, match=r"nothing says who you are at .*is for https://other"
    ) as caught:
        ClientSettings.find(server=SERVER)
    assert "hushhush" not in str(caught.value)
    assert ClientSettings.find(server="https://other.example.com/batchexec")


def test_a_password_is_not_sent_to_a_server_that_it_is_not_for(write_file):
    write_file('[default]\nserver = "https://other.example.com"\nusername = "ada"\npassword = "hushhush"')
    with pytest.raises(ConfigurationError, match=r"^password: there is none"):
        ClientSettings.find(server=SERVER, username="ada")


def test_two_identities_in_one_place_are_refused(monkeypatch):
    monkeypatch.setenv("BATCHEXEC_TOKEN", "t")
    monkeypatch.setenv("BATCHEXEC_USERNAME", "ada")
    with pytest.raises(ConfigurationError, match=r"^token: set it, or username, but not both"):
        ClientSettings.find(server=SERVER)


def test_without_a_server_every_way_to_name_one_is_told():
    with pytest.raises(
        ConfigurationError, match=r"^server: .*BATCHEXEC_SERVER.*\.config/batchexec/config\.toml"
    ):
        BatchJobManagerClient(token="t")
    assert ClientSettings.find(token="t", default_server="http://localhost:8080").server == (
        "http://localhost:8080"
    )


def test_without_an_identity_every_way_to_have_one_is_told():
    with pytest.raises(ConfigurationError, match=r"^token: .*BATCHEXEC_TOKEN.*username and password"):
        BatchJobManagerClient(SERVER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default", "it cannot be read"),
        ("[other]\n", r"it has no profile \[default\]; its profiles: other"),
        ("default = 1", "default is no table"),
        ('[default]\ntokens = "hushhush"', "default.tokens is no setting; the settings are server, token"),
        ('[default]\ntoken = ["hushhush"]', "default.token should be a text"),
        ('[default]\nread_timeout = "hushhush"', "default.read_timeout should be a number"),
        ("[default]\nretries = true", "default.retries should be a number"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_its_values_are_not_shown(write_file, text, message):
    path = write_file(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        ClientSettings.find(server=SERVER, token="t")
    assert str(path) in str(caught.value)
    assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize("how", ["profile", "config_file"])
def test_a_file_that_is_asked_for_must_be_there(how, tmp_path):
    with pytest.raises(ConfigurationError, match="there is no such file"):
        ClientSettings.find(server=SERVER, token="t", **{how: str(tmp_path / "nowhere")})


@pytest.mark.parametrize(
    ("field", "value"),
    [("connect_timeout", -1), ("read_timeout", float("nan")), ("retries", -1), ("retries", 1.5)],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(field, value):
    with pytest.raises(ConfigurationError, match=f"^{field}: ") as caught:
        ClientSettings.find(server=SERVER, token="t", **{field: value})
    assert caught.value.details == {"field": field}


def test_a_bundle_of_certificates_must_be_there(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^ca_bundle: there is no "):
        ClientSettings.find(server=SERVER, token="t", ca_bundle=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("who_else", [stat.S_IRGRP, stat.S_IROTH])
def test_a_file_with_a_secret_that_others_may_read_is_warned_of(write_file, caplog, who_else):
    text = f'[default]\nserver = "{SERVER}"\ntoken = "hushhush"'
    path = write_file(text)
    ClientSettings.find()
    assert caplog.text == ""
    write_file(text, 0o600 | who_else)
    ClientSettings.find()
    assert f"chmod 600 {path}" in caplog.text
    assert "hushhush" not in caplog.text


def test_a_file_without_a_secret_may_be_read_by_all(write_file, caplog):
    write_file(f'[default]\nserver = "{SERVER}"\ntoken_file = "token"', 0o644)
    ClientSettings.find()
    assert caplog.text == ""


def test_secrets_are_not_in_the_text_of_settings():
    settings = ClientSettings(server=SERVER, token="hushhush", password="hushhush")
    assert "hushhush" not in repr(settings) + str(settings)
